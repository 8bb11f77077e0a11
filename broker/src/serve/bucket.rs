//! Opening the bucket: what the store can do, and whether the bucket is the cluster's.

use highwater_coordinator::Coordinator;
use highwater_model::NodeId;
use highwater_tiering::core::names::Names;
use highwater_tiering::lane::{LaneSettings, Store, StoreSettings};
use highwater_tiering::probe::{Problem, probe};
use uuid::Uuid;

use super::ServeError;
use crate::bucket_mark::{self, MarkError};
use crate::data_dir::DataDir;
use crate::settings::Settings;

/// Opens the store and proves what it can do. A store that is away does not keep a node from starting again:
/// produce and hot reads need none; but the first start refuses, because the address may be wrong.
pub(super) async fn open_store(
    settings: &Settings,
    names: &Names,
    is_first_start: bool,
) -> Result<Store, ServeError> {
    let lane = |concurrency: usize, bytes_per_s: u64| LaneSettings {
        concurrency,
        requests_per_s: u64::from(settings.store_requests_per_second),
        bytes_per_s,
        attempt_ms: settings.store_timeout_ms,
    };
    let lanes = StoreSettings {
        upload: lane(settings.store_upload_concurrency, settings.store_upload_bytes_per_second),
        read: lane(settings.store_read_concurrency, 0),
        housekeeping: LaneSettings {
            attempt_ms: settings.store_timeout_ms,
            ..StoreSettings::default().housekeeping
        },
    };
    let store = Store::open(&settings.object_store_url(), settings.s3_endpoint.as_deref(), lanes)?;
    match probe(&store, names).await {
        Ok(()) => {}
        Err(failure) if !is_first_start && matches!(failure.problem, Problem::Unreachable { .. }) => {
            tracing::warn!("{failure}; starting without it, what is sealed waits");
        }
        Err(failure) => {
            let advice = advice(&failure.problem);
            return Err(ServeError::Probe { failure, advice });
        }
    }
    Ok(store)
}

fn advice(problem: &Problem) -> &'static str {
    match problem {
        Problem::NoBucket => "create it or correct --object-store",
        Problem::Denied { .. } => {
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy of the bucket"
        }
        Problem::Unreachable { .. } => "check --object-store and --s3-endpoint, and that the store is up",
        Problem::Overwrites => "use a store or a release of it that has conditional writes",
        Problem::OtherBytes | Problem::NotListed => "use another store",
        Problem::Step { .. } => "check --object-store and the store's log",
    }
}

/// Whether the bucket is the cluster's; none where it is away and need not be there.
pub(super) async fn check_bucket(
    store: &Store,
    names: &Names,
    data_dir: &DataDir,
    coordinator: &Coordinator,
    node_id: NodeId,
) -> Result<Option<Uuid>, ServeError> {
    let is_old_directory = !data_dir.is_new();
    let has_others = coordinator.with_state(|state| state.brokers.keys().any(|id| *id != node_id));
    let known = bucket_mark::Known { noted: data_dir.bucket(), is_old_directory, has_others };
    match bucket_mark::check(store, names, known).await {
        Ok(bucket) => Ok(Some(bucket)),
        Err(MarkError::Store(e)) if is_old_directory => {
            tracing::warn!("the bucket cannot be asked whose it is: {e}; going on");
            Ok(None)
        }
        Err(e) => Err(ServeError::Bucket(e)),
    }
}
