//! A data directory: one simulated disk per partition, the token of a clean stop, and how it fares when the
//! process or the machine dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_log::disk::{Disk, Fault, SimDisk};

use crate::random::Chance;

/// What survives a process.
#[derive(Debug)]
pub struct DataDir {
    disks: BTreeMap<u32, SimDisk>,
    /// Partitions whose disk was told to fail since the process started.
    faulty: BTreeSet<u32>,
    /// Broker epoch of the process that stopped in order.
    pub clean_stop_of: Option<u64>,
    pub storage: uuid::Uuid,
}

impl DataDir {
    pub fn new(storage: uuid::Uuid) -> DataDir {
        DataDir { disks: BTreeMap::new(), faulty: BTreeSet::new(), clean_stop_of: None, storage }
    }

    /// The partition's disk; a new one if it has none.
    pub fn disk(&mut self, partition: u32) -> Arc<dyn Disk> {
        Arc::new(self.disks.entry(partition).or_default().clone())
    }

    pub fn sim(&self, partition: u32) -> Option<&SimDisk> {
        self.disks.get(&partition)
    }

    /// The partition's disk fails once, if there is one.
    pub fn inject(&mut self, partition: u32, fault: Fault) -> bool {
        let Some(disk) = self.disks.get(&partition) else { return false };
        disk.inject(fault);
        self.faulty.insert(partition);
        true
    }

    pub fn is_faulty(&self, partition: u32) -> bool {
        self.faulty.contains(&partition)
    }

    pub fn partitions(&self) -> Vec<u32> {
        self.disks.keys().copied().collect()
    }

    /// The partition's directory is removed.
    pub fn remove(&mut self, partition: u32) {
        self.disks.remove(&partition);
    }

    /// Power fails: of what was not synced, chance keeps what it likes.
    pub fn lose_power(&mut self, chance: &mut Chance) {
        for disk in self.disks.values_mut() {
            *disk = disk.crash(chance.bits()).expect("memory files can be made");
        }
        self.settle();
    }

    /// The process died: everything written is there.
    pub fn settle(&mut self) {
        self.faulty.clear();
        for disk in self.disks.values_mut() {
            disk.clear_faults();
            *disk = disk.kill();
        }
    }
}
