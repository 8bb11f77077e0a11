//! DeleteRecords: the leader lifts the log start in the manifest, and every replica follows it. As the
//! product's `workers/retention.rs`.

use highwater_coordinator::core::Command;
use highwater_model::Offset;
use highwater_tiering::core::manifest::{Edit, EditRequest};

use super::Broker;
use super::calls::Purpose;
use crate::context::Context;

impl Broker {
    /// A client asks to delete so many thousandths of what there is; carried out by the ticks to come, if
    /// this node leads.
    pub fn delete_records(&mut self, context: &mut Context, partition: u32, permille: i64) {
        let log_start = self.manifest_log_start(context, partition);
        let Some(held) = self.held(partition).filter(|held| held.leads()) else { return };
        let end = held.high_watermark();
        let target = log_start + (end - log_start) * permille / 1_000;
        if target > log_start {
            held.deletes_below = Some(target);
        }
        context.note(format_args!("broker {} p{partition} deletes below {target} of {end}", self.node));
    }

    fn manifest_log_start(&self, context: &Context, partition: u32) -> Offset {
        let metadata = self.process.as_ref().and_then(|process| process.metadata.as_ref());
        let manifest = metadata.and_then(|m| m.state.manifest(context.params.tp(partition)));
        manifest.map_or(0, |manifest| manifest.log_start)
    }

    pub(super) fn tick_log_start(&mut self, context: &mut Context, partition: u32) {
        let log_start = self.manifest_log_start(context, partition);
        self.follow_log_start(context, partition, log_start);
        let tp = context.params.tp(partition);
        let Some(process) = &mut self.process else { return };
        let Some(held) = process.held.get_mut(&partition) else { return };
        let target = held.deletes_below.take_if(|target| *target > log_start);
        let manifest = process.metadata.as_ref().and_then(|m| m.state.manifest(tp));
        let (Some(target), Some(manifest), true) = (target, manifest, held.leads()) else { return };
        held.deletes_below = Some(target);
        let request = EditRequest {
            expected_version: manifest.version,
            leader_epoch: held.leader_epoch(),
            edit: Edit::Prune { log_start: target, head: Vec::new() },
        };
        if self.may_report(context, partition) {
            self.propose(context, Purpose::Switch, Command::EditManifest { tp, request });
        }
    }

    /// The log's own start comes after the manifest's, and after where the group lets go.
    fn follow_log_start(&mut self, context: &mut Context, partition: u32, log_start: Offset) {
        let Some(held) = self.held(partition) else { return };
        if log_start <= held.log().log_start() {
            return;
        }
        let released = self.release(context, partition, log_start);
        let Some(held) = self.held(partition) else { return };
        let to = log_start.min(released.unwrap_or(log_start)).min(held.log().log_end());
        // A disk that refuses is asked again by the next tick.
        let _ = held.machine_mut().log_mut().raise_log_start(to);
    }
}
