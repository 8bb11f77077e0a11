//! What is counted of delayed delivery.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::Registrar;

/// Delayed records, of the shards on this node.
pub struct Delayed {
    /// That wait, and their bytes.
    pub records: Gauge,
    pub bytes: Gauge,
    /// How long the oldest of them is overdue, in milliseconds.
    pub lateness_ms: Gauge,
    /// That came to their partition, and that were dropped with it.
    pub released: Counter,
    pub dropped: Counter,
    /// Shards that were given up and loaded anew because an append failed.
    pub reloads: Counter,
}

impl Delayed {
    pub(super) fn new(r: &mut Registrar) -> Delayed {
        Delayed {
            records: r.gauge("delayed_records", "Delayed records that wait on this node"),
            bytes: r.gauge("delayed_bytes", "Bytes of the delayed records that wait on this node"),
            lateness_ms: r
                .gauge("delayed_lateness_ms", "How long the oldest delayed record that waits is overdue"),
            released: r.counter("delayed_released", "Delayed records that came to their partition"),
            dropped: r.counter("delayed_dropped", "Delayed records dropped as their topic was deleted"),
            reloads: r.counter("delayed_reloads", "Loads of delayed records anew because an append failed"),
        }
    }
}
