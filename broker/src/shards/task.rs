//! The task that owns one shard: it is loaded, serves, and is loaded anew when its state is not what the log
//! says any more, until it is told to stop. Invariants: 3, 6.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_model::limits::{SHARD_RETRY_PAUSE, SHARD_RETRY_PAUSE_MAX};
use tokio::sync::{mpsc, watch};

use super::load::{LoadError, Sink, load};
use super::{End, Kind, Serve, Shard, ShardLog, SteadyClock};
use crate::node::Node;
use crate::partition::Partition;

/// What the task works with as long as it lives.
pub struct Task<K: Kind> {
    pub node: Arc<Node>,
    pub partition: Arc<Partition>,
    pub shard: Arc<Shard<K>>,
    pub messages: mpsc::Receiver<K::Message>,
    pub stop: watch::Receiver<bool>,
    /// One for the shard's life: time must not go back when it is loaded anew.
    pub clock: SteadyClock,
}

impl<K: Kind> Task<K> {
    /// Loads and serves the shard until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut pause = SHARD_RETRY_PAUSE;
        loop {
            let end = match K::load(&mut self).await {
                Ok(mut loaded) => {
                    self.shard.is_loaded.store(true, Ordering::Release);
                    let end = loaded.serve(&mut self).await;
                    self.shard.is_loaded.store(false, Ordering::Release);
                    if loaded.has_served() {
                        pause = SHARD_RETRY_PAUSE;
                    }
                    loaded.give_up();
                    end
                }
                Err(LoadError::NotLeader) => End::Stop,
                Err(LoadError::Failed(error)) => {
                    let partition = self.shard.partition;
                    tracing::error!(partition, "{} cannot be loaded: {error}; it is tried again", K::HOLDS);
                    End::Reload
                }
            };
            self.refuse_queued();
            if end == End::Stop || *self.stop.borrow() {
                break;
            }
            K::reloads(&self.node).inc();
            let _ = tokio::time::timeout(pause, self.stop.wait_for(|stop| *stop)).await; // a pause
            pause = (pause * 2).min(SHARD_RETRY_PAUSE_MAX);
        }
        // It may be asked still, until another shard stands in its place.
        self.messages.close();
        self.refuse_queued();
    }

    fn refuse_queued(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            K::refuse(message);
        }
    }

    /// Reads the shard's whole log into `sink`; with it, how many bytes that were.
    ///
    /// # Errors
    /// [`LoadError`]
    pub async fn read<S: Sink>(&self, sink: S) -> Result<(S, u64), LoadError> {
        let is_given_up = Arc::new(AtomicBool::new(false));
        let mut stop = self.stop.clone();
        tokio::select! {
            read = load(&self.partition, self.shard.epoch, sink, &is_given_up) => read,
            _ = stop.wait_for(|stop| *stop) => {
                is_given_up.store(true, Ordering::Relaxed);
                Err(LoadError::NotLeader)
            }
        }
    }

    /// The shard's log to append to; `T` stands with each append until it is committed.
    pub fn log<T>(&self) -> ShardLog<T> {
        ShardLog::new(self.node.clone(), self.partition.clone(), self.shard.epoch)
    }
}
