//! What the store can do, asked once at start: writes, conditional writes, reads, lists, deletes. Each
//! failure is one line that an operator can act on. Bounded time; leaves nothing behind.

use bytes::Bytes;
use highwater_model::limits::{STORE_PROBE_MS_MAX, STORE_PROBE_STEP_MS_MAX};
use tokio::time::Instant;
use uuid::Uuid;

use crate::bucket::{Fault, FaultKind};
use crate::core::lanes::Lane;
use crate::core::names::Names;
use crate::lane::{Store, StoreError, deadline_in};

const CONTENT: &[u8] = b"highwater probe: safe to delete\n";

/// Why the store cannot be used. `Display` is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("object store {url}: {problem}")]
pub struct ProbeFailure {
    pub url: String,
    pub problem: Problem,
}

/// What is wrong with the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the bucket does not exist")]
    NoBucket,
    #[error("the credentials are missing, wrong or not enough to {step} ({detail})")]
    Denied { step: &'static str, detail: String },
    #[error("not reachable ({detail})")]
    Unreachable { detail: String },
    #[error(
        "conditional put is not honoured (If-None-Match: * overwrote an object); \
         this store could lose objects and cannot be used"
    )]
    Overwrites,
    #[error("read back other bytes than were written")]
    OtherBytes,
    #[error("does not list an object that was just written")]
    NotListed,
    #[error("cannot {step} ({detail})")]
    Step { step: &'static str, detail: String },
}

/// Proves the store. Takes at most `STORE_PROBE_MS_MAX`.
pub async fn probe(store: &Store, names: &Names) -> Result<(), ProbeFailure> {
    let end = deadline_in(STORE_PROBE_MS_MAX);
    steps(store, names, end).await.map_err(|problem| ProbeFailure { url: store.url().to_string(), problem })
}

async fn steps(store: &Store, names: &Names, end: Instant) -> Result<(), Problem> {
    let step_end = || end.min(deadline_in(STORE_PROBE_STEP_MS_MAX));
    let key = names.probe(Uuid::new_v4());
    let body = [Bytes::from_static(CONTENT)];
    let lane = Lane::Housekeeping;
    store.put_new(lane, &key, &body, step_end()).await.map_err(|e| problem("write", e))?;
    let other = [Bytes::from_static(b"overwritten")];
    match store.put_new(lane, &key, &other, step_end()).await {
        Err(e) if e.is_changed() => {}
        Err(StoreError::Conflict { .. }) => {}
        Err(e) => return Err(problem("write conditionally", e)),
        Ok(()) => {
            let _ = store.delete(&[key], step_end()).await;
            return Err(Problem::Overwrites);
        }
    }
    let range = 0..CONTENT.len() as u64;
    let back = store.get_range(lane, &key, range, step_end()).await.map_err(|e| problem("read", e))?;
    if back != CONTENT {
        return Err(Problem::OtherBytes);
    }
    let dir = key.rsplit_once('/').map_or("", |(dir, _)| dir).to_string() + "/";
    let listed = store.list(&dir, None, 1_000, step_end()).await.map_err(|e| problem("list", e))?;
    if !listed.iter().any(|l| l.key == key) && listed.len() < 1_000 {
        return Err(Problem::NotListed);
    }
    store.delete(&[key], step_end()).await.map_err(|e| problem("delete", e))
}

fn problem(step: &'static str, error: StoreError) -> Problem {
    match error {
        StoreError::Fault { fault, .. } => from_fault(step, fault),
        StoreError::Expired { last, .. }
            if last.starts_with("Connect") || last.starts_with("Interrupted") =>
        {
            Problem::Unreachable { detail: last }
        }
        StoreError::Expired { last, .. } => Problem::Step { step, detail: last },
        StoreError::Conflict { .. } => Problem::OtherBytes,
    }
}

fn from_fault(step: &'static str, fault: Fault) -> Problem {
    match fault.kind {
        FaultKind::NoBucket => Problem::NoBucket,
        FaultKind::Denied => Problem::Denied { step, detail: fault.message },
        FaultKind::Connect | FaultKind::Interrupted => Problem::Unreachable { detail: fault.message },
        _ => Problem::Step { step, detail: fault.message },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bucket::memory::{MemoryBucket, Op, Trouble};
    use crate::lane::StoreSettings;

    async fn probed(bucket: &Arc<MemoryBucket>) -> Result<(), String> {
        let store = Store::over(bucket.clone(), "s3://flights", StoreSettings::default());
        let names = Names::new("c").expect("plain");
        let found = probe(&store, &names).await.map_err(|e| e.to_string());
        assert!(found.as_ref().err().is_none_or(|line| !line.contains('\n')), "one line");
        found
    }

    #[tokio::test]
    async fn a_good_store_passes_and_is_left_clean() {
        let bucket = Arc::new(MemoryBucket::default());
        probed(&bucket).await.expect("good");
        assert!(bucket.keys().is_empty());
    }

    #[tokio::test]
    async fn each_failure_is_named_in_one_line() {
        for (kind, says) in [
            (FaultKind::NoBucket, "the bucket does not exist"),
            (FaultKind::Denied, "the credentials are missing, wrong or not enough to write"),
            (FaultKind::Unsupported, "cannot write"),
        ] {
            let bucket = Arc::new(MemoryBucket::default());
            bucket.trouble(Op::Put, Trouble::Refused(kind), 1);
            let line = probed(&bucket).await.expect_err("bad");
            assert!(line.starts_with("object store s3://flights: ") && line.contains(says), "{line}");
        }
        let bucket = Arc::new(MemoryBucket::default());
        bucket.trouble(Op::Delete, Trouble::Refused(FaultKind::Denied), 1);
        assert!(probed(&bucket).await.expect_err("no delete").contains("not enough to delete"));
        let bucket = Arc::new(MemoryBucket::default());
        bucket.trouble(Op::Get, Trouble::Refused(FaultKind::Denied), 1);
        assert!(probed(&bucket).await.expect_err("no read").contains("not enough to read"));
    }

    #[tokio::test]
    async fn a_store_that_overwrites_is_refused_and_left_clean() {
        let bucket = Arc::new(MemoryBucket::default());
        bucket.ignore_conditions();
        assert!(probed(&bucket).await.expect_err("overwrites").contains("conditional put is not honoured"));
        assert!(bucket.keys().is_empty());
    }

    #[tokio::test]
    async fn an_endpoint_that_is_away_is_named_in_bounded_time() {
        let bucket = Arc::new(MemoryBucket::default());
        bucket.trouble(Op::Put, Trouble::Refused(FaultKind::Connect), 10_000);
        let begun = std::time::Instant::now();
        assert!(probed(&bucket).await.expect_err("away").contains("not reachable"));
        assert!(begun.elapsed().as_millis() < u128::from(STORE_PROBE_MS_MAX));
    }
}
