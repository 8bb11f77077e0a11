//! A full disk is waited out: what writes for Raft stands still until there is room, and Raft with it.
//!
//! Nothing is lost that way, and nothing has to be started again when whoever filled the disk is gone:
//! meanwhile the node is to its peers as one that hangs, and another leads. Only the writing of bytes is
//! repeated, at the same place, never a failed fsync (invariant 5). Must not: outlast the node (`give_up`).

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use highwater_model::limits::RAFT_DISK_FULL_PAUSE;

/// Shared by all that writes for one member.
#[derive(Clone, Default)]
pub(super) struct Room(Arc<Inside>);

#[derive(Default)]
struct Inside {
    is_given_up: Mutex<bool>,
    told: Condvar,
}

impl Room {
    /// Repeats `write`, which must come to the same however often it is begun, while the disk is full.
    ///
    /// # Errors
    /// Those of `write`; a full disk only once the wait is given up.
    pub(super) fn wait_out<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut is_told = false;
        loop {
            match write() {
                Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                    if !is_told {
                        is_told = true;
                        tracing::error!("the disk is full: this node's control plane waits for room");
                    }
                    if self.pause() {
                        return Err(e);
                    }
                }
                done => {
                    if is_told {
                        tracing::info!("the disk has room again: this node's control plane goes on");
                    }
                    return done;
                }
            }
        }
    }

    /// From now on nobody waits.
    pub(super) fn give_up(&self) {
        *self.0.is_given_up.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.told.notify_all();
    }

    /// Lets some time pass; true if the wait is given up.
    fn pause(&self) -> bool {
        let waits = self.0.is_given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = self.0.told.wait_timeout_while(waits, RAFT_DISK_FULL_PAUSE, |given_up| !*given_up);
        *paused.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_waited_out_and_other_errors_are_not() {
        let room = Room::default();
        let mut left = 3;
        let written = room.wait_out(|| {
            left -= 1;
            if left > 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(left) }
        });
        assert_eq!(written.expect("there was room at last"), 0);
        let mut tries = 0;
        let failed = room.wait_out(|| -> io::Result<()> {
            tries += 1;
            Err(ErrorKind::PermissionDenied.into())
        });
        assert_eq!((failed.expect_err("told").kind(), tries), (ErrorKind::PermissionDenied, 1));
    }

    #[test]
    fn a_node_that_stops_does_not_wait() {
        let room = Room::default();
        let waiting = room.clone();
        let waits = std::thread::spawn(move || {
            waiting.wait_out(|| -> io::Result<()> { Err(ErrorKind::StorageFull.into()) })
        });
        room.give_up();
        assert_eq!(waits.join().expect("ends").expect_err("given up").kind(), ErrorKind::StorageFull);
    }
}
