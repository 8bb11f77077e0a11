//! Who writes a batch, and what it is therefore judged by before it is appended.

use highwater_log::{PartitionLog, SequenceRefusal, Sequenced, VerificationTicket};
use highwater_wire::batch::BatchHeader;
use highwater_wire::control::EndMarker;

/// Who writes a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client. The ticket shows that a transaction which begins with this batch was verified since
    /// (KIP-890).
    Client(Option<VerificationTicket>),
    /// A coordinator on this node: its batches have no sequences.
    Coordinator(Option<VerificationTicket>),
    /// The end of a transaction. `bumps_epoch`: by its coordinator's rules it has an epoch of its own.
    Marker { end: EndMarker, bumps_epoch: bool },
}

/// Judges a batch against everything in the log. A marker whose epoch the log knows already is `Duplicate`
/// up to the log's end: whatever has taken its transaction further is there, and may not be committed yet, so
/// that its coordinator must not be told so before it is (invariant 3).
///
/// # Errors
/// The refusal, which has Kafka's error code.
pub fn judge(log: &PartitionLog, header: &BatchHeader, origin: Origin) -> Result<Sequenced, SequenceRefusal> {
    match origin {
        Origin::Client(ticket) => log.check_produce(header, ticket),
        Origin::Coordinator(ticket) => {
            log.check_unsequenced(header, ticket)?;
            Ok(Sequenced::New)
        }
        Origin::Marker { end, bumps_epoch } => {
            match log.producers().check_marker(header.producer_id, header.producer_epoch, end, bumps_epoch) {
                Ok(()) => Ok(Sequenced::New),
                Err(SequenceRefusal::StaleEpoch { .. }) => {
                    let (base_offset, next_offset) = (log.log_end(), log.log_end());
                    let max_timestamp = header.max_timestamp;
                    Ok(Sequenced::Duplicate { base_offset, next_offset, max_timestamp })
                }
                Err(refusal) => Err(refusal),
            }
        }
    }
}
