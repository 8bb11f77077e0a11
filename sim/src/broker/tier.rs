//! A broker and the bucket: uploads of the partitions that it leads, eviction, and reads from objects.

use highwater_coordinator::core::{Refusal, Reply};
use highwater_model::Offset;
use highwater_tiering::core::manifest::{Found, Manifest};

use super::calls::Purpose;
use super::upload::{Step, Upload};
use super::{Broker, read};
use crate::bucket::{Answer, Ask};
use crate::context::Context;
use crate::guards::Guard;
use crate::message::{ClientError, Fetched, Message, Metadata};
use crate::network::{Address, MILLI, Micros, SECOND};

const ASK_TIMEOUT: Micros = 2 * SECOND;
const READ_BYTES: usize = 4_096;

/// A consumer's read that waits for the bucket.
#[derive(Debug)]
pub(super) struct TierRead {
    client: Address,
    id: u64,
    offset: Offset,
    high_watermark: Offset,
    sent: Micros,
}

impl Broker {
    pub(super) fn tick_tier(&mut self, context: &mut Context, partition: u32) {
        self.evict(context, partition);
        let tp = context.params.tp(partition);
        let Some(held) = self.held(partition) else { return };
        if !held.leads() {
            // A leader's work ends with its leadership; what is in the bucket is garbage.
            held.upload = None;
            return;
        }
        if let Some(upload) = &mut held.upload {
            let is_late = upload.waits.is_some_and(|(_, at)| context.now > at + ASK_TIMEOUT);
            let rests = upload.waits.is_none() && context.now >= held.next_upload;
            if is_late || rests {
                let step = upload.timed_out();
                self.upload_step(context, partition, step);
            }
            return;
        }
        let epoch = held.leader_epoch();
        let has_work = !held.log().sealed().is_empty() && context.now >= held.next_upload;
        if has_work {
            let (upload, step) = Upload::new(tp, epoch);
            held.upload = Some(upload);
            self.upload_step(context, partition, step);
        }
    }

    fn upload_step(&mut self, context: &mut Context, partition: u32, step: Step) {
        let from = self.address();
        let rest = self.chance.between(50, 400) * MILLI;
        let waits = match step {
            Step::Read => Some(self.call(context, Purpose::Upload { partition }, |id| Message::Read { id })),
            Step::Propose(command) => Some(self.propose(context, Purpose::Upload { partition }, command)),
            Step::Ask(ask) => {
                let id = context.id();
                context.send(from, Address::Bucket, Message::Ask { id, ask });
                Some(id)
            }
            Step::Later => None,
            Step::Done => return self.upload_ends(context, partition, rest, "published"),
            Step::GaveUp(why) => return self.upload_ends(context, partition, rest, why),
        };
        let now = context.now;
        if let Some(held) = self.held(partition)
            && let Some(upload) = &mut held.upload
        {
            upload.waits = waits.map(|id| (id, now));
            held.next_upload = now + rest;
        }
    }

    fn upload_ends(&mut self, context: &mut Context, partition: u32, rest: Micros, how: &str) {
        context.note(format_args!("broker {} p{partition} upload ends: {how}", self.node));
        if let Some(held) = self.held(partition) {
            held.upload = None;
            held.next_upload = context.now + rest;
        }
    }

    pub(super) fn upload_timed_out(&mut self, context: &mut Context, partition: u32) {
        let Some(upload) = self.held(partition).and_then(|h| h.upload.as_mut()) else { return };
        // Rests first; the tick goes on with it.
        upload.waits = None;
        context.note(format_args!("p{partition} {:?} has no answer", upload.stage));
    }

    pub(super) fn upload_proposed(
        &mut self,
        context: &mut Context,
        partition: u32,
        outcome: &Result<Reply, Refusal>,
    ) {
        let Some(upload) = self.held(partition).and_then(|h| h.upload.as_mut()) else { return };
        let step = upload.proposed(outcome);
        self.upload_step(context, partition, step);
    }

    pub(super) fn upload_manifest(&mut self, context: &mut Context, partition: u32, metadata: &Metadata) {
        let upload_id = self.chance.uuid();
        let tp = context.params.tp(partition);
        let Some(manifest) = metadata.state.manifest(tp).cloned() else { return };
        let Some(process) = &mut self.process else { return };
        let Some(held) = process.held.get_mut(&partition) else { return };
        let high_watermark = held.high_watermark();
        let Some(mut upload) = held.upload.take() else { return };
        let (sealer, params) = (&mut process.sealer, &context.params);
        let step = upload.manifest_read(params, sealer, held.log(), high_watermark, &manifest, upload_id);
        held.upload = Some(upload);
        self.upload_step(context, partition, step);
    }

    pub(super) fn bucket_answered(&mut self, context: &mut Context, id: u64, answer: &Answer) {
        let process = self.process.as_mut().expect("alive");
        if let Some(read) = process.tier_reads.remove(&id) {
            return self.tier_read_answered(context, &read, answer);
        }
        let of = |(_, h): &(&u32, &mut super::Held)| {
            h.upload.as_ref().is_some_and(|u| u.waits.is_some_and(|(waits, _)| waits == id))
        };
        let Some((partition, held)) = process.held.iter_mut().find(of) else { return };
        let partition = *partition;
        let step = held.upload.as_mut().expect("found by it").answered(answer);
        self.upload_step(context, partition, step);
    }

    // --- eviction ---

    /// Every replica drops what the manifest lists, beyond what local retention keeps.
    fn evict(&mut self, context: &mut Context, partition: u32) {
        let tp = context.params.tp(partition);
        let (keep, wall_ms) = (context.params.local_segments, self.wall_ms(context));
        let is_guarded = context.guards.holds(Guard::PublishBeforeEvict);
        let released = self.released_end(context, partition);
        let Some(process) = &mut self.process else { return };
        let Some(manifest) = process.metadata.as_ref().and_then(|m| m.state.manifest(tp)).cloned() else {
            return;
        };
        let Some(held) = process.held.get_mut(&partition) else { return };
        if process.evicts_all && held.log().active_start() < held.log().log_end() {
            held.roll(wall_ms);
        }
        let keep = if process.evicts_all { 0 } else { keep };
        let sealed = held.log().sealed();
        let Some(newest) = sealed.len().checked_sub(keep + 1).map(|at| sealed[at].end) else { return };
        let clamp = if is_guarded { manifest.tiered_end } else { held.high_watermark() };
        let clamp = clamp.min(released.unwrap_or(clamp));
        if sealed[0].end <= newest.min(clamp) {
            let upto = newest.min(clamp);
            context.note(format_args!("broker {} p{partition} evicts below {upto}", self.node));
            held.evict_below(upto);
        }
    }

    // --- reads ---

    /// A consumer asks for what is not local any more.
    pub(super) fn read_tier(
        &mut self,
        context: &mut Context,
        client: Address,
        id: u64,
        partition: u32,
        offset: Offset,
        high_watermark: Offset,
    ) {
        let from = self.address();
        let process = self.process.as_mut().expect("alive");
        let manifest = process.metadata.as_ref().and_then(|m| m.state.manifest(context.params.tp(partition)));
        if let Some(log_start) = manifest.map(|m| m.log_start).filter(|start| offset < *start) {
            let outcome = Err(ClientError::BelowLogStart(log_start));
            return context.send(from, client, Message::Fetched { id, outcome });
        }
        let Some(key) = manifest.and_then(|m| key_of(context, m, partition, offset)) else {
            let outcome = Err(ClientError::OutOfRange);
            return context.send(from, client, Message::Fetched { id, outcome });
        };
        let ask_id = context.id();
        let now = context.now;
        process.tier_reads.retain(|_, read| now < read.sent + 2 * ASK_TIMEOUT);
        process.tier_reads.insert(ask_id, TierRead { client, id, offset, high_watermark, sent: now });
        context.send(from, Address::Bucket, Message::Ask { id: ask_id, ask: Ask::Get { key } });
    }

    fn tier_read_answered(&mut self, context: &mut Context, read: &TierRead, answer: &Answer) {
        let from = self.address();
        let process = self.process.as_mut().expect("alive");
        let records = match answer {
            Answer::Body(body) => read::object_values(&mut process.rebuilder, body, read.offset, READ_BYTES),
            _ => None,
        };
        let TierRead { client, id, high_watermark, .. } = *read;
        let outcome = match records {
            Some(records) => Ok(Fetched { records, high_watermark, is_tiered: true }),
            None => Err(ClientError::TierAway),
        };
        context.send(from, client, Message::Fetched { id, outcome });
    }
}

/// Key of the object that holds an offset.
fn key_of(context: &Context, manifest: &Manifest, partition: u32, offset: Offset) -> Option<String> {
    match manifest.find(offset)? {
        Found::Object(entry) => {
            Some(super::names().object(&super::topic_ref(&context.params), partition as i32, entry))
        }
        Found::Page(_) => None,
    }
}
