//! A bucket in memory, with faults on demand: 503, a write applied but timed out, a stall, a truncated body
//! under 200, a 404 after the write. For tests and simulation; never behind a served broker.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{Bucket, Fault, FaultKind, Listed, Tag};

/// Which operation a planned failure waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Put,
    Get,
    Head,
    Delete,
    List,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    SlowDown,
    Refused(FaultKind),
    /// The operation is applied, its answer is lost.
    AppliedButLost,
    /// The operation takes this long, then works.
    Slow(Duration),
    /// Half of the bytes arrive, and no error.
    Truncated,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, (Bytes, u64)>,
    writes: u64,
    plan: VecDeque<(Op, Trouble)>,
    calls: Vec<(Op, String)>,
    ignores_conditions: bool,
}

/// The bucket. Cheap to share behind an `Arc`.
#[derive(Debug, Default)]
pub struct MemoryBucket {
    state: Mutex<State>,
}

impl MemoryBucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the bucket is locked")
    }

    /// The next `times` operations of this kind go wrong so. Plans queue up.
    pub fn trouble(&self, op: Op, trouble: Trouble, times: usize) {
        self.state().plan.extend(std::iter::repeat_n((op, trouble), times));
    }

    /// Behaves like a store that overwrites in spite of If-None-Match.
    pub fn ignore_conditions(&self) {
        self.state().ignores_conditions = true;
    }

    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Takes an object away behind everyone's back.
    pub fn lose(&self, key: &str) -> bool {
        self.state().objects.remove(key).is_some()
    }

    /// Replaces an object's bytes behind everyone's back (bit rot).
    pub fn corrupt(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let (body, _) = state.objects.get_mut(key).expect("an object to corrupt");
        let mut bytes = body.to_vec();
        change(&mut bytes);
        *body = bytes.into();
    }

    /// How often an operation was called so far.
    pub fn calls(&self, op: Op) -> usize {
        self.state().calls.iter().filter(|(o, _)| *o == op).count()
    }

    async fn begin(&self, op: Op, key: &str) -> Result<Option<Trouble>, Fault> {
        let trouble = {
            let mut state = self.state();
            state.calls.push((op, key.to_string()));
            let at = state.plan.iter().position(|(o, _)| *o == op);
            at.and_then(|at| state.plan.remove(at)).map(|(_, t)| t)
        };
        match trouble {
            Some(Trouble::SlowDown) => Err(Fault::new(FaultKind::SlowDown, "503 SlowDown")),
            Some(Trouble::Refused(kind)) => Err(Fault::new(kind, "planned")),
            Some(Trouble::Slow(pause)) => {
                tokio::time::sleep(pause).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn write(&self, key: &str, body: Bytes, seen: Option<&Tag>) -> Result<Tag, Fault> {
        let mut state = self.state();
        let current = state.objects.get(key).map(|(_, version)| Tag(version.to_string()));
        if current.as_ref() != seen && !state.ignores_conditions {
            let kind = if seen.is_none() { FaultKind::Exists } else { FaultKind::Changed };
            return Err(Fault::new(kind, key));
        }
        state.writes += 1;
        let version = state.writes;
        state.objects.insert(key.to_string(), (body, version));
        Ok(Tag(version.to_string()))
    }

    fn read(&self, key: &str) -> Result<(Bytes, Tag), Fault> {
        let state = self.state();
        let (body, version) = state.objects.get(key).ok_or_else(|| Fault::new(FaultKind::NotFound, key))?;
        Ok((body.clone(), Tag(version.to_string())))
    }
}

fn lost<T>(trouble: Option<Trouble>, done: T) -> Result<T, Fault> {
    match trouble {
        Some(Trouble::AppliedButLost) => Err(Fault::new(FaultKind::Interrupted, "timed out")),
        _ => Ok(done),
    }
}

#[async_trait]
impl Bucket for MemoryBucket {
    async fn put_new(&self, key: &str, body: &[Bytes]) -> Result<(), Fault> {
        let trouble = self.begin(Op::Put, key).await?;
        let mut whole = BytesMut::new();
        body.iter().for_each(|part| whole.extend_from_slice(part));
        self.write(key, whole.freeze(), None)?;
        lost(trouble, ())
    }

    async fn put_over(&self, key: &str, body: Bytes, seen: Option<&Tag>) -> Result<Tag, Fault> {
        let trouble = self.begin(Op::Put, key).await?;
        let tag = self.write(key, body, seen)?;
        lost(trouble, tag)
    }

    async fn get_start(&self, key: &str, bytes_max: u64) -> Result<(Bytes, Tag), Fault> {
        self.begin(Op::Get, key).await?;
        let (body, tag) = self.read(key)?;
        let end = body.len().min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        Ok((body.slice(..end), tag))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Fault> {
        let trouble = self.begin(Op::Get, key).await?;
        let (body, _) = self.read(key)?;
        if range.end > body.len() as u64 {
            return Err(Fault::new(FaultKind::Truncated, format!("{key}: {range:?} of {}", body.len())));
        }
        let end = match trouble {
            Some(Trouble::Truncated) => range.start + (range.end - range.start) / 2,
            _ => range.end,
        };
        Ok(body.slice(range.start as usize..end as usize))
    }

    async fn head(&self, key: &str) -> Result<u64, Fault> {
        self.begin(Op::Head, key).await?;
        Ok(self.read(key)?.0.len() as u64)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Fault> {
        let trouble = self.begin(Op::Delete, keys.first().map_or("", String::as_str)).await?;
        let mut state = self.state();
        for key in keys {
            state.objects.remove(key);
        }
        drop(state);
        lost(trouble, ())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, Fault> {
        self.begin(Op::List, prefix).await?;
        let state = self.state();
        let below = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let rest = below.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        Ok(rest.take(limit).map(|(key, (b, _))| Listed { key: key.clone(), bytes: b.len() as u64 }).collect())
    }
}
