//! The replica's core held by transcripts (`golden/*.txt`: what happens to node 1, and what it makes of it).

use std::path::Path;

use super::*;

/// Node 1, its log as two numbers, and the words of a transcript.
struct Notebook {
    replica: Replica,
    terms: Assignment,
    ends: Ends,
    now_ms: i64,
    proposals: Vec<IsrProposal>,
}

impl Notebook {
    fn new() -> Notebook {
        let member = |node_id| Member { node_id, broker_epoch: 10 * node_id, may_join: true };
        let terms = Assignment {
            leader: None,
            leader_epoch: 0,
            partition_epoch: 0,
            replicas: [1, 2, 3].map(member).to_vec(),
            isr: vec![1, 2, 3],
            min_isr: 2,
            flush_before_ack: false,
            lag_ms_max: 10_000,
        };
        let ends = Ends { log_end: 0, flushed_end: 0 };
        Notebook { replica: Replica::new(1, 0), terms, ends, now_ms: 0, proposals: Vec::new() }
    }

    /// Runs one line of a transcript; what it answers is the text.
    fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().expect("a number");
        let named = |name: &str| {
            let prefix = format!("{name}=");
            let found = words.iter().find_map(|word| word.strip_prefix(&prefix));
            found.map(|value| value.parse::<i64>().expect("a number"))
        };
        let (now_ms, ends) = (self.now_ms, self.ends);
        let moves = match words[0] {
            "at" => {
                self.now_ms = number(1);
                return String::new();
            }
            "log" => {
                (self.ends.log_end, self.ends.flushed_end) = (number(1), number(2));
                return String::new();
            }
            "known" => {
                self.replica = Replica::new(1, number(1));
                return String::new();
            }
            "assign" => return self.assign(&words[1..]),
            "state" => return self.state(),
            "append" => {
                self.ends.log_end += number(1);
                self.replica.appended(now_ms, ends.log_end, self.ends)
            }
            "flush" => {
                self.ends.flushed_end = named("to").unwrap_or(ends.log_end);
                self.replica.flushed(now_ms, self.ends)
            }
            "fetch" => {
                let follower = FollowerEnds {
                    node_id: number(1) as NodeId,
                    broker_epoch: named("broker").unwrap_or(10 * number(1)) as u64,
                    log_end: number(2),
                    flushed_end: named("flushed").unwrap_or(number(2)),
                };
                let epoch = named("epoch").map_or(self.replica.leader_epoch(), |epoch| epoch as i32);
                let judged = self.replica.judge_fetch(follower.node_id, follower.broker_epoch, epoch);
                if let Err(refusal) = judged {
                    return format!("refused: {refusal}\n");
                }
                self.replica.follower_fetched(now_ms, follower, ends)
            }
            "tick" => self.replica.tick(now_ms, ends),
            "session" => {
                self.replica.set_lapsed(words[1] == "lapsed");
                self.replica.tick(now_ms, ends)
            }
            "settled" => {
                let proposal =
                    self.proposals[named("nth").map_or(self.proposals.len(), |n| n as usize) - 1].clone();
                let outcome = match words[1] {
                    "refused" => IsrOutcome::Refused,
                    "unknown" => IsrOutcome::Unknown,
                    _ => IsrOutcome::Accepted { partition_epoch: named("record").expect("an epoch") as i32 },
                };
                self.replica.isr_settled(now_ms, &proposal, outcome, ends)
            }
            "told" => self.replica.leader_told(number(1), ends.log_end),
            "cut" => {
                self.ends = Ends { log_end: number(1), flushed_end: ends.flushed_end.min(number(1)) };
                let is_regress = self.replica.truncated(number(1));
                return if is_regress { "committed records are gone\n".into() } else { String::new() };
            }
            "may-append" => {
                return match self.replica.check_append(words[1] == "all") {
                    Ok(epoch) => format!("in epoch {epoch}\n"),
                    Err(refusal) => format!("refused: {refusal}\n"),
                };
            }
            "ack" => {
                let ticket = AckTicket { end: number(1), leader_epoch: number(2) as i32 };
                return format!("{:?}\n", self.replica.ack(&ticket));
            }
            other => panic!("{other}: no such word"),
        };
        self.tell(moves)
    }

    fn assign(&mut self, words: &[&str]) -> String {
        let nodes = |text: &str| -> Vec<NodeId> {
            text.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().expect("a node")).collect()
        };
        for word in words {
            let (name, value) = word.split_once('=').expect("name=value");
            let number = || value.parse::<i64>().expect("a number");
            match name {
                "leader" => self.terms.leader = value.parse().ok(),
                "epoch" => self.terms.leader_epoch = number() as i32,
                "record" => self.terms.partition_epoch = number() as i32,
                "isr" => self.terms.isr = nodes(value),
                "min" => self.terms.min_isr = number() as usize,
                "flush" => self.terms.flush_before_ack = value == "1",
                "replicas" => {
                    let member = |node_id| Member { node_id, broker_epoch: 10 * node_id, may_join: true };
                    self.terms.replicas = nodes(value).into_iter().map(member).collect();
                }
                "fenced" => {
                    let fenced = nodes(value);
                    self.terms.replicas.iter_mut().for_each(|m| m.may_join = !fenced.contains(&m.node_id));
                }
                "broker" => {
                    let (node, epoch) = value.split_once(':').expect("node:epoch");
                    let node: NodeId = node.parse().expect("a node");
                    let member = self.terms.replicas.iter_mut().find(|m| m.node_id == node);
                    member.expect("a replica").broker_epoch = epoch.parse().expect("an epoch");
                }
                other => panic!("{other}: no such term"),
            }
        }
        let assigned = self.replica.assign(self.now_ms, &self.terms, self.ends);
        let role = format!("{:?}", self.replica.role());
        let news = match (assigned.is_old, assigned.is_new_epoch) {
            (true, _) => "nothing new",
            (false, true) => "a new epoch",
            (false, false) => "the same epoch",
        };
        format!("{role}, {news}; {}", self.tell(assigned.moves))
    }

    fn tell(&mut self, moves: Moves) -> String {
        let mut told = Vec::new();
        if let Some(end) = moves.high_watermark {
            told.push(format!("committed to {end}"));
        }
        if let Some(proposal) = moves.propose {
            let members: Vec<String> =
                proposal.isr.iter().map(|m| format!("{}@{}", m.node_id, m.broker_epoch)).collect();
            let (epoch, record) = (proposal.leader_epoch, proposal.partition_epoch);
            told.push(format!("propose {} for epoch {epoch} record {record}", members.join(" ")));
            self.proposals.push(proposal);
        }
        if told.is_empty() { "-\n".into() } else { told.join(", ") + "\n" }
    }

    fn state(&self) -> String {
        let replica = &self.replica;
        let mut text = format!(
            "{:?} epoch {} isr {:?} committed {} of {} settled {}\n",
            replica.role(),
            replica.leader_epoch(),
            replica.isr(),
            replica.high_watermark(),
            self.ends.log_end,
            replica.is_settled()
        );
        for (node, ends) in replica.follower_ends() {
            match ends {
                None => text += &format!("  {node} has not fetched\n"),
                Some(ends) => {
                    let (log_end, flushed, broker) = (ends.log_end, ends.flushed_end, ends.broker_epoch);
                    text += &format!("  {node}@{broker} has {log_end}, on disk {flushed}\n");
                }
            }
        }
        text
    }
}

#[test]
fn transcripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core/replica/golden");
    let mut found = 0;
    for entry in std::fs::read_dir(dir).expect("golden transcripts") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let mut notebook = Notebook::new();
        let mut out = String::new();
        for line in text.lines() {
            if line.starts_with('#') || line.is_empty() {
                if line == "# ---" {
                    notebook = Notebook::new();
                }
                out += &format!("{line}\n");
            } else if let Some(command) = line.strip_prefix("> ") {
                out += &format!("{line}\n{}", notebook.line(command));
            }
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &out).expect("written");
        } else {
            assert_eq!(text, out, "{}; UPDATE_GOLDEN=1 rewrites it", path.display());
        }
        found += 1;
    }
    assert!(found >= 4, "the transcripts were not found");
}
