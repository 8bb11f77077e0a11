//! Group commit: commands that wait while an entry is being synced go into the next one together.
//!
//! openraft syncs once per entry and one entry at a time, so the entry is where commands are gathered.
//! Bounded: the queue, the commands and the bytes of an entry all have limits.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::Clock;
use highwater_model::limits::{COMMANDS_PER_ENTRY_BYTES, COMMANDS_PER_ENTRY_MAX, PROPOSALS_PENDING_MAX};
use tokio::sync::{mpsc, oneshot};

use crate::core::{Batch, Command, Refusal, Reply};
use crate::raft::{ProposeFailure, RaftNode};

/// What became of one command.
pub(crate) type Answer = Result<Result<Reply, Refusal>, ProposeFailure>;

/// A command on its way, and who waits for it.
pub(crate) struct Proposal {
    pub command: Command,
    pub answer: oneshot::Sender<Answer>,
}

/// Starts the task; it ends when every sender is gone. An entry has `wait` until its outcome is unknown.
pub(crate) fn start(node: Arc<RaftNode>, clock: Arc<dyn Clock>, wait: Duration) -> mpsc::Sender<Proposal> {
    let (sender, inbox) = mpsc::channel(PROPOSALS_PENDING_MAX);
    tokio::spawn(run(node, clock, wait, inbox));
    sender
}

async fn run(
    node: Arc<RaftNode>,
    clock: Arc<dyn Clock>,
    wait: Duration,
    mut inbox: mpsc::Receiver<Proposal>,
) {
    let mut carried = None;
    loop {
        let first = match carried.take() {
            Some(proposal) => proposal,
            None => match inbox.recv().await {
                Some(proposal) => proposal,
                None => return,
            },
        };
        let rules = node.rules();
        let Some(first) = known_to(rules, first) else { continue };
        let (commands, waiting) = gather(rules, first, &mut inbox, &mut carried);
        let batch = Batch { rules, at_ms: clock.now_ms(), commands };
        // A leader that has lost its majority would keep the queue waiting for ever.
        let outcome = match tokio::time::timeout(wait, node.propose(Arc::new(batch))).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ProposeFailure::Unknown("no majority of coordinators has answered in time".into())),
        };
        tell(waiting, outcome);
    }
}

/// The proposal, unless a member of the group is of a release that does not know its command: an entry with
/// it could not be read there.
fn known_to(rules: u16, proposal: Proposal) -> Option<Proposal> {
    let needed = proposal.command.rules_min();
    if needed <= rules {
        return Some(proposal);
    }
    let reason = format!(
        "a coordinator of an older release does not know this command (rules {rules}, {needed} are needed); \
         upgrade all coordinators first"
    );
    let _ = proposal.answer.send(Err(ProposeFailure::Refused(reason)));
    None
}

/// Takes what waits, up to the limits of an entry. A command that would pass them is carried over.
fn gather(
    rules: u16,
    first: Proposal,
    inbox: &mut mpsc::Receiver<Proposal>,
    carried: &mut Option<Proposal>,
) -> (Vec<Command>, Vec<oneshot::Sender<Answer>>) {
    let mut bytes = first.command.bytes_estimate();
    let (mut commands, mut waiting) = (vec![first.command], vec![first.answer]);
    while commands.len() < COMMANDS_PER_ENTRY_MAX
        && let Ok(next) = inbox.try_recv()
    {
        let Some(next) = known_to(rules, next) else { continue };
        bytes += next.command.bytes_estimate();
        if bytes > COMMANDS_PER_ENTRY_BYTES {
            *carried = Some(next);
            break;
        }
        commands.push(next.command);
        waiting.push(next.answer);
    }
    (commands, waiting)
}

fn tell(waiting: Vec<oneshot::Sender<Answer>>, outcome: Result<Vec<Result<Reply, Refusal>>, ProposeFailure>) {
    match outcome {
        Ok(answers) => {
            debug_assert_eq!(answers.len(), waiting.len(), "one answer for each command");
            for (waiting, answer) in waiting.into_iter().zip(answers) {
                let _ = waiting.send(Ok(answer));
            }
        }
        Err(failure) => {
            for waiting in waiting {
                let _ = waiting.send(Err(failure.clone()));
            }
        }
    }
}
