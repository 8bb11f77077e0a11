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

/// Judges a batch against everything in the log.
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
            log.producers().check_marker(header.producer_id, header.producer_epoch, end, bumps_epoch)?;
            Ok(Sequenced::New)
        }
    }
}
