//! The mark of a cluster in its bucket, so that a node with another cluster's bucket, or with an empty one,
//! is refused before it writes anything (docs/format.md, "Bucket mark").
//!
//! The cluster's first broker leaves it; a node notes its id beside its own identity and must find the same
//! every time. Must not: keep a node from starting again while the bucket is away. Invariant 18.

use bytes::Bytes;
use highwater_model::limits::{BUCKET_MARK_BYTES_MAX, OFFLOAD_STEP_MS_MAX};
use highwater_tiering::core::lanes::Lane;
use highwater_tiering::core::names::Names;
use highwater_tiering::lane::{Store, StoreError, deadline_in};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const MARK_FORMAT: u32 = 1;
const DOCUMENT: &str = "bucket";

/// What is known before the bucket is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The mark that this data directory has seen.
    pub noted: Option<Uuid>,
    /// The directory has served this cluster before.
    pub is_old_directory: bool,
    /// Other brokers belong to the cluster, so that there is a mark by now.
    pub has_others: bool,
}

/// Why the bucket is not the cluster's, or cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    #[error("{0}")]
    Foreign(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
    cluster_id: String,
    bucket: Uuid,
}

/// The id of the cluster's bucket, marked now if it is the first broker that comes.
pub async fn check(store: &Store, names: &Names, known: Known) -> Result<Uuid, MarkError> {
    let cluster = names.cluster();
    let url = store.url();
    let foreign = |why: &str| {
        Err(MarkError::Foreign(format!(
            "{url} is not the bucket of cluster {cluster}: {why}; correct --object-store and --s3-endpoint"
        )))
    };
    match (read(store, names).await?, known.noted) {
        (Some(mark), None) => Ok(mark),
        (Some(mark), Some(noted)) if mark == noted => Ok(mark),
        (Some(_), Some(_)) => foreign("its mark is another one than this node has seen"),
        (None, Some(_)) => foreign("it does not have the mark that this node has seen"),
        (None, None) if known.has_others && !known.is_old_directory => {
            foreign("the other brokers have marked theirs, and this one has no mark")
        }
        (None, None) => leave(store, names).await,
    }
}

async fn read(store: &Store, names: &Names) -> Result<Option<Uuid>, MarkError> {
    let key = names.cluster_document(DOCUMENT);
    let deadline = deadline_in(OFFLOAD_STEP_MS_MAX.min(10_000));
    let body = match store.get_start(Lane::Housekeeping, &key, BUCKET_MARK_BYTES_MAX, deadline).await {
        Ok((body, _)) => body,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mark: Mark = serde_json::from_slice(&body)
        .map_err(|e| MarkError::Foreign(format!("{}: {key} cannot be read: {e}", store.url())))?;
    if mark.format != MARK_FORMAT || mark.cluster_id != names.cluster() {
        let found = mark.cluster_id;
        return Err(MarkError::Foreign(format!("{}: {key} is of cluster {found:?}", store.url())));
    }
    Ok(Some(mark.bucket))
}

/// Two brokers may come at once: one mark stays, and both read it.
async fn leave(store: &Store, names: &Names) -> Result<Uuid, MarkError> {
    let mark = Mark { format: MARK_FORMAT, cluster_id: names.cluster().to_owned(), bucket: Uuid::new_v4() };
    let body = serde_json::to_vec(&mark).expect("plain data");
    let (key, deadline) = (names.cluster_document(DOCUMENT), deadline_in(10_000));
    match store.put_new(Lane::Housekeeping, &key, &[Bytes::from(body)], deadline).await {
        Ok(()) => Ok(mark.bucket),
        Err(e) if e.is_changed() || matches!(e, StoreError::Conflict { .. }) => {
            read(store, names).await?.ok_or(MarkError::Store(e))
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use highwater_tiering::lane::StoreSettings;

    use super::*;

    fn open(dir: &std::path::Path) -> Store {
        let url = format!("file://{}", dir.display());
        Store::open(&url, None, StoreSettings::default()).expect("opens")
    }

    #[tokio::test]
    async fn a_bucket_is_marked_once_and_another_one_is_refused() {
        let temp = tempfile::tempdir().expect("scratch");
        let (own, other) = (temp.path().join("own"), temp.path().join("other"));
        for dir in [&own, &other] {
            std::fs::create_dir_all(dir).expect("directory");
        }
        let names = Names::new("AbcdefghijklmnopqrstuA").expect("legal");
        let first = Known { noted: None, is_old_directory: false, has_others: false };
        let mark = check(&open(&own), &names, first).await.expect("the first marks");
        let second = Known { has_others: true, ..first };
        assert_eq!(check(&open(&own), &names, second).await.expect("marked"), mark);
        let refused = check(&open(&other), &names, second).await.expect_err("an empty bucket").to_string();
        assert!(refused.contains("--object-store") && refused.lines().count() == 1, "{refused}");
        let noted = Known { noted: Some(mark), is_old_directory: true, has_others: true };
        assert_eq!(check(&open(&own), &names, noted).await.expect("the same"), mark);
        assert!(check(&open(&other), &names, noted).await.is_err());
        let v1 = format!(
            r#"{{"format":1,"cluster_id":"{}","bucket":"6c1f8f1e-9f0b-4c58-9d8e-0b6a5c1d2e3f"}}"#,
            names.cluster()
        );
        std::fs::write(own.join(names.cluster_document(DOCUMENT)), v1).expect("written");
        check(&open(&own), &names, second).await.expect("the fixture of version 1");
        // A directory of the first release has noted nothing: it marks its bucket.
        let old = Known { noted: None, is_old_directory: true, has_others: true };
        let theirs = check(&open(&other), &names, old).await.expect("marked now");
        let refused = check(&open(&other), &names, noted).await.expect_err("another mark").to_string();
        assert!(theirs != mark && refused.contains("another one"), "{refused}");
    }
}
