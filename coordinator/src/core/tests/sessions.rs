//! Sessions: `MS event ...` in, what is to be fenced out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use highwater_model::NodeId;

use super::super::*;

const TIMES: SessionTimes = SessionTimes { timeout_ms: 6_000, reopen_ms: 1_000, again_ms: 2_000 };

pub(super) struct Notebook {
    sessions: Sessions,
}

impl Default for Notebook {
    fn default() -> Notebook {
        Notebook { sessions: Sessions::new(TIMES) }
    }
}

impl Notebook {
    pub(super) fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let event = match words[1] {
            "brokers" => {
                let broker = |text: &&str| {
                    let (node, epoch) = text.split_once('@').expect("NODE@EPOCH");
                    (node.parse().expect("a node"), epoch.parse().expect("an epoch"))
                };
                SessionEvent::Brokers(words[2..].iter().map(broker).collect())
            }
            "hello" => SessionEvent::Hello { node_id: number(2), broker_epoch: number(3), stream: number(4) },
            "heartbeat" => SessionEvent::Heartbeat { node_id: number(2), stream: number(3) },
            "closed" => SessionEvent::StreamClosed { node_id: number(2), stream: number(3) },
            "tick" => SessionEvent::Tick,
            other => panic!("no such event: {other}"),
        };
        let mut effects = Vec::new();
        self.sessions.step(number(0), &event, &mut effects);
        let mut out = String::new();
        for SessionEffect::Fence { node_id, broker_epoch } in effects {
            writeln!(out, "fence {node_id} epoch {broker_epoch}").expect("text");
        }
        match self.sessions.next_due_ms() {
            Some(due) => writeln!(out, "next due {due}").expect("text"),
            None => writeln!(out, "nothing due").expect("text"),
        }
        out
    }
}

proptest! {
    /// A broker that opened its stream and is heard in time is never fenced, whatever the others do; one that
    /// is silent always is, no later than its timeout.
    #[test]
    fn who_is_heard_lives_and_who_is_silent_lapses(
        events in prop::collection::vec((1u64..2_500, 2u64..5, 0u8..4), 1..200),
    ) {
        let mut sessions = Sessions::new(TIMES);
        let mut effects = Vec::new();
        let brokers = (1..5).map(|node| (node, 7)).collect();
        sessions.step(0, &SessionEvent::Brokers(brokers), &mut effects);
        sessions.step(0, &SessionEvent::Hello { node_id: 1, broker_epoch: 7, stream: 1 }, &mut effects);
        let (mut now, mut stream) = (0, 1);
        let mut heard: BTreeMap<NodeId, u64> = (2..5).map(|node| (node, 0)).collect();
        for (pause, node_id, kind) in events {
            now += pause;
            sessions.step(now, &SessionEvent::Heartbeat { node_id: 1, stream: 1 }, &mut effects);
            stream += 1;
            let event = match kind {
                0 => SessionEvent::Hello { node_id, broker_epoch: 7, stream },
                1 => SessionEvent::Hello { node_id, broker_epoch: 6, stream },
                2 => SessionEvent::Heartbeat { node_id, stream: stream - 1 },
                _ => SessionEvent::StreamClosed { node_id, stream: stream - 1 },
            };
            sessions.step(now, &event, &mut effects);
            if kind == 0 || (kind == 2 && sessions.is_open(node_id, stream - 1)) {
                heard.insert(node_id, now);
            }
            for (node, at) in &heard {
                if now - at > TIMES.timeout_ms {
                    prop_assert!(!sessions.may_be_alive(*node, 7), "{} was heard at {}, now {}", node, at, now);
                }
            }
        }
        prop_assert!(sessions.is_open(1, 1), "heard all the time");
        let fenced = |effect: &SessionEffect| matches!(effect, SessionEffect::Fence { node_id: 1, .. });
        prop_assert!(!effects.iter().any(fenced));
    }
}
