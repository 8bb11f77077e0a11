//! The parts of the tier as a node holds them, made from its settings.

use std::io;
use std::sync::Arc;

use highwater_coordinator::Coordinator;
use highwater_tiering::core::names::Names;
use highwater_tiering::lane::Store;
use highwater_tiering::metrics::OffloadCounters;
use highwater_tiering::mirror::Mirror;
use highwater_tiering::offload::{OffloadParts, Offloader};
use highwater_tiering::pages::Pages;
use highwater_tiering::port::ManifestPort;
use highwater_tiering::read::{ReadParts, ReadSettings, TierReader};

use crate::settings::Settings;

/// Sixteenths of the memory for what is read back that decoded pages of manifests may take, and readers that
/// go on; the cache has the rest.
const PAGES_OF_CACHE: u64 = 1;
/// See [`PAGES_OF_CACHE`].
const STREAMS_OF_CACHE: u64 = 7;

/// Writing to, reading from and mirroring in the bucket.
pub struct Tier {
    pub store: Store,
    pub offloader: Offloader,
    pub reader: TierReader,
    pub mirror: Arc<Mirror>,
}

impl Tier {
    /// Connects the parts; makes no request.
    ///
    /// # Errors
    /// The system gives no threads for sealing.
    pub fn new(
        settings: &Settings,
        store: Store,
        names: Names,
        coordinator: &Coordinator,
    ) -> io::Result<Tier> {
        let names = Arc::new(names);
        let port: Arc<dyn ManifestPort> = Arc::new(coordinator.clone());
        let (offload_counters, read_counters) = (Arc::new(OffloadCounters::default()), Arc::default());
        let pages_bytes = settings.cache_bytes / 16 * PAGES_OF_CACHE;
        let streams_bytes = settings.cache_bytes / 16 * STREAMS_OF_CACHE;
        let pages = Pages::new(store.clone(), names.clone(), pages_bytes, Arc::clone(&read_counters));
        let mirror = Arc::new(Mirror::new(store.clone(), names.clone(), offload_counters.clone()));
        let offloader = Offloader::new(OffloadParts {
            store: store.clone(),
            names: names.clone(),
            port: port.clone(),
            pages: pages.clone(),
            mirror: mirror.clone(),
            counters: offload_counters,
            seal_threads: settings.offload_concurrency,
        })?;
        let memory_bytes = usize::try_from(settings.read_memory_bytes).unwrap_or(usize::MAX);
        let read_settings = ReadSettings {
            cache_bytes: settings.cache_bytes - pages_bytes - streams_bytes,
            demand_bytes: memory_bytes / 2,
            ahead_bytes: usize::try_from(streams_bytes).unwrap_or(usize::MAX),
            rebuild_threads: settings.worker_threads(),
        };
        let parts = ReadParts {
            store: store.clone(),
            names,
            port,
            pages,
            counters: read_counters,
            settings: read_settings,
        };
        Ok(Tier { store, offloader, reader: TierReader::new(parts), mirror })
    }
}
