//! The tier's parts put together: what writes to the bucket, what reads from it, and the mirror of the manifests.

use std::sync::Arc;

use highwater_coordinator::Coordinator;
use highwater_tiering::core::names::Names;
use highwater_tiering::lane::Store;
use highwater_tiering::metrics::{OffloadCounters, ReadCounters};
use highwater_tiering::mirror::Mirror;
use highwater_tiering::offload::{OffloadParts, Offloader};
use highwater_tiering::pages::Pages;
use highwater_tiering::port::ManifestPort;
use highwater_tiering::read::{ReadParts, ReadSettings, TierReader};

use crate::settings::Settings;

/// The tier of one node.
pub struct Tier {
    pub offloader: Offloader,
    pub reader: TierReader,
    /// Somebody has to run it.
    pub mirror: Arc<Mirror>,
}

impl Tier {
    /// Builds the tier over an open store. Starts the threads that seal, and nothing else.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(
        settings: &Settings,
        coordinator: &Coordinator,
        store: &Store,
        names: Names,
    ) -> std::io::Result<Tier> {
        let names = Arc::new(names);
        let port: Arc<dyn ManifestPort> = Arc::new(coordinator.clone());
        let reads = Arc::new(ReadCounters::default());
        let offloads = Arc::new(OffloadCounters::default());
        // Pages are small and looked at once per row group at most: a sliver beside the cache is plenty.
        let pages = Pages::new(store.clone(), names.clone(), settings.cache_bytes / 16, reads.clone());
        let mirror = Arc::new(Mirror::new(store.clone(), names.clone(), offloads.clone()));
        let offloader = Offloader::new(OffloadParts {
            store: store.clone(),
            names: names.clone(),
            port: port.clone(),
            pages: pages.clone(),
            mirror: mirror.clone(),
            counters: offloads,
            seal_threads: settings.offload_concurrency,
        })?;
        // Half for what somebody waits for, half for what is fetched ahead.
        let half = usize::try_from(settings.read_memory_bytes / 2).unwrap_or(usize::MAX);
        let reader = TierReader::new(ReadParts {
            store: store.clone(),
            names,
            port,
            pages,
            counters: reads,
            settings: ReadSettings {
                cache_bytes: settings.cache_bytes,
                demand_bytes: half,
                ahead_bytes: half,
                rebuild_threads: settings.worker_threads(),
            },
        });
        Ok(Tier { offloader, reader, mirror })
    }
}
