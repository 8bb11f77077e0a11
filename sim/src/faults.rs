//! What goes wrong, and when: drawn one fault after another from the seed.
//!
//! A fault is carried out here and ends by an event, or all at once when healing begins. Faults stay within
//! what the product promises to survive: machines lose power only where the topic asks for a flush before the
//! acknowledgement, never the bucket, and a disk for good only where nothing can hang on what it had
//! (`can_do_without`).

use std::collections::BTreeMap;

use highwater_coordinator::core::{ClusterState, Command, ConfigOp, ConfigOpKind, ElectionKind, Partition};
use highwater_log::disk::Fault as DiskFault;

use highwater_model::TopicPartition;

use crate::bucket::BucketWeather;
use crate::context::{Context, Event};
use crate::disk::DataDir;
use crate::network::{Address, Host, MILLI, Micros, SECOND, Weather};
use crate::params::{Mode, Params};
use crate::random::Chance;
use crate::world::World;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    LosePower,
    LosePowerEverywhere,
    StopInOrder,
    Pause,
    CutOff,
    CutOneWay,
    Split,
    BadWeather,
    LoseControlLeader,
    MemberDown,
    ControlAway,
    BucketAway,
    BucketRough,
    ClockJumps,
    SyncFails,
    DiskFull,
    Reassign,
    PreferredLeader,
    Drain,
    MinIsr,
    DeleteRecords,
    /// A broker comes back with an empty directory, if the others can do without what it had.
    LoseDisk,
    /// One replica is cut off, and soon after the leader's machine loses power: what is acknowledged in
    /// between hangs on who had synced it.
    LoseLeader,
    /// The topic asks for the other replication, in mode switching.
    Switch,
}

/// How often each comes, relative to the others.
const WEIGHTS: [(Kind, u64); 25] = [
    (Kind::Kill, 10),
    (Kind::LosePower, 10),
    (Kind::LosePowerEverywhere, 3),
    (Kind::StopInOrder, 6),
    (Kind::Pause, 10),
    (Kind::CutOff, 9),
    (Kind::CutOneWay, 9),
    (Kind::Split, 6),
    (Kind::BadWeather, 5),
    (Kind::LoseControlLeader, 6),
    (Kind::MemberDown, 4),
    (Kind::ControlAway, 3),
    (Kind::BucketAway, 3),
    (Kind::BucketRough, 5),
    (Kind::ClockJumps, 3),
    (Kind::SyncFails, 2),
    (Kind::DiskFull, 2),
    (Kind::Reassign, 5),
    (Kind::PreferredLeader, 4),
    (Kind::Drain, 3),
    (Kind::MinIsr, 2),
    (Kind::DeleteRecords, 2),
    (Kind::LoseDisk, 3),
    (Kind::LoseLeader, 8),
    (Kind::Switch, 25),
];

/// After the return of a broker that lost its disk.
const SPARED: Micros = 5 * SECOND;

/// What ends with a fault.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Network,
    Weather,
    Bucket,
    Drain(u64),
    /// Not undone, but done: the partition's leader loses power.
    Power(TopicPartition),
}

/// The faults of one run.
#[derive(Debug)]
pub struct Faults {
    chance: Chance,
    undo: BTreeMap<u64, Undo>,
    /// Is down and may come back without its disk.
    losing: Option<u64>,
    /// Came back without its disk.
    lost: Option<u64>,
    /// Until then, and until the loss of the disk is known, no other broker dies.
    spared_until: Micros,
}

impl Kind {
    fn ends_a_process(self) -> bool {
        matches!(
            self,
            Kind::Kill
                | Kind::LosePower
                | Kind::LosePowerEverywhere
                | Kind::StopInOrder
                | Kind::SyncFails
                | Kind::DiskFull
        )
    }
}

impl Faults {
    pub fn new(chance: Chance) -> Faults {
        Faults { chance, undo: BTreeMap::new(), losing: None, lost: None, spared_until: 0 }
    }

    pub fn schedule(&mut self, context: &mut Context) {
        let every = context.params.fault_every;
        let pause = self.chance.between(every / 4, every * 2);
        context.after(pause, Event::Fault);
    }

    fn kind(&mut self, mode: Mode) -> Kind {
        let happens = |kind: Kind| match kind {
            Kind::Switch => mode == Mode::Switching,
            // Nothing is to go that a group still needs.
            Kind::DeleteRecords => mode != Mode::Groups,
            _ => true,
        };
        let kinds = WEIGHTS.into_iter().filter(|(kind, _)| happens(*kind));
        let mut at = self.chance.below(kinds.clone().map(|(_, weight)| weight).sum());
        for (kind, weight) in kinds {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return kind,
            }
        }
        Kind::Kill
    }

    fn broker(&mut self, context: &Context) -> u64 {
        self.chance.between(1, context.params.brokers)
    }

    fn ends(&mut self, context: &mut Context, undo: Undo, after: Micros) {
        let fault = context.id();
        self.undo.insert(fault, undo);
        context.after(after, Event::FaultEnds { fault });
    }

    pub fn end(&mut self, world: &mut World, fault: u64) {
        let Some(undo) = self.undo.remove(&fault) else { return };
        world.context.note(format_args!("fault ends: {undo:?}"));
        match undo {
            Undo::Network => world.context.network.mend(),
            Undo::Weather => world.context.network.weather = world.context.params.weather,
            Undo::Bucket => world.bucket.weather = BucketWeather::FAIR,
            Undo::Power(tp) => self.leader_loses_power(world, tp),
            Undo::Drain(node_id) => world.administer(Command::DrainBroker { node_id, is_draining: false }),
        }
    }

    /// The world is sound again; processes that are down or paused are brought back by the caller.
    pub fn end_all(&mut self, world: &mut World) {
        self.undo.clear();
        self.losing = None;
        for node_id in 1..=world.context.params.brokers {
            world.administer(Command::DrainBroker { node_id, is_draining: false });
        }
        world.context.network.mend();
        world.context.network.weather = Weather::FAIR;
        world.bucket.weather = BucketWeather::FAIR;
    }

    pub fn strike(&mut self, world: &mut World) {
        let kind = self.kind(world.context.params.mode);
        let node = self.broker(&world.context);
        let lasts = self.chance.between(100, 4_000) * MILLI;
        if kind.ends_a_process() && self.spares(world) {
            return;
        }
        world.context.note(format_args!("FAULT {kind:?} broker {node} for {lasts} us"));
        match kind {
            Kind::Kill => world.kill(node, false, lasts),
            Kind::LosePower | Kind::LosePowerEverywhere => self.lose_power(world, kind, node, lasts),
            Kind::StopInOrder => world.stop_in_order(node, lasts),
            Kind::Pause => world.pause(node, lasts),
            Kind::CutOff | Kind::CutOneWay | Kind::Split => self.cut(world, kind, node, lasts),
            Kind::BadWeather => {
                let weather = &mut world.context.network.weather;
                weather.lost_permille = self.chance.between(0, 300);
                weather.doubled_permille = self.chance.between(0, 200);
                weather.delayed_permille = self.chance.between(0, 200);
                weather.delayed_max = self.chance.between(50, 5_000) * MILLI;
                self.ends(&mut world.context, Undo::Weather, lasts);
            }
            Kind::LoseControlLeader => world.control.lose_leader(&mut world.context),
            Kind::MemberDown => {
                let member = self.chance.between(1, world.context.params.members);
                world.control.take_down(&mut world.context, member, lasts);
            }
            Kind::ControlAway => {
                let members: Vec<u64> = world.control.members().collect();
                for member in members {
                    world.control.take_down(&mut world.context, member, lasts);
                }
            }
            Kind::BucketAway | Kind::BucketRough => self.bucket(world, kind, lasts),
            Kind::ClockJumps => {
                let jump = self.chance.between(0, 20_000) as i64 - 10_000;
                world.broker(node).skew_ms += jump;
            }
            Kind::DeleteRecords => {
                let partition = self.chance.below(u64::from(world.context.params.partitions)) as u32;
                let permille = self.chance.between(1, 1_000) as i64;
                world.delete_records(partition, permille);
            }
            Kind::LoseDisk => self.lose_disk(world, node, lasts),
            Kind::LoseLeader => self.lose_leader(world, lasts),
            Kind::SyncFails => self.disk(world, node, DiskFault::SyncFails, lasts),
            Kind::DiskFull => {
                let fault = DiskFault::WriteFails(std::io::ErrorKind::StorageFull);
                self.disk(world, node, fault, lasts);
            }
            Kind::Reassign | Kind::PreferredLeader | Kind::MinIsr | Kind::Drain | Kind::Switch => {
                self.operate(world, kind, node, lasts);
            }
        }
    }

    /// What an operator may do at any time.
    fn operate(&mut self, world: &mut World, kind: Kind, node: u64, lasts: Micros) {
        let params = world.context.params.clone();
        let partition = self.chance.below(u64::from(params.partitions)) as u32;
        let tp = params.tp(partition);
        let command = match kind {
            Kind::Reassign => self.reassignment(&params, tp),
            Kind::MinIsr => {
                let least = self.chance.between(1, params.replication_factor);
                let op = ConfigOpKind::Set(least.to_string());
                let ops = vec![ConfigOp { name: "min.insync.replicas".into(), op }];
                Command::AlterConfigs { topic_id: params.topic_id, ops }
            }
            Kind::Switch => {
                let name = if self.chance.permille(500) { "raft" } else { "fetch" };
                if self.chance.permille(400) {
                    self.cut_leader_from_group(world, tp, lasts);
                }
                let op = ConfigOpKind::Set(name.into());
                let ops = vec![ConfigOp { name: "highwater.replication".into(), op }];
                Command::AlterConfigs { topic_id: params.topic_id, ops }
            }
            Kind::Drain => {
                self.ends(&mut world.context, Undo::Drain(node), lasts);
                Command::DrainBroker { node_id: node, is_draining: true }
            }
            _ => Command::ElectLeader { tp, kind: ElectionKind::Preferred },
        };
        world.administer(command);
    }

    fn lose_power(&mut self, world: &mut World, kind: Kind, node: u64, lasts: Micros) {
        let may = world.context.params.flush_before_ack;
        let nodes = match kind {
            Kind::LosePowerEverywhere => (1..=world.context.params.brokers).collect(),
            _ => vec![node],
        };
        for node in nodes {
            world.kill(node, may, lasts);
        }
    }

    fn lose_leader(&mut self, world: &mut World, lasts: Micros) {
        let partition = self.chance.below(u64::from(world.context.params.partitions)) as u32;
        let tp = world.context.params.tp(partition);
        let state = world.control.newest().state;
        let Some(known) = state.partition(tp) else { return };
        let others: Vec<u64> =
            known.replicas.iter().copied().filter(|node| Some(*node) != known.leader).collect();
        let Some(behind) = self.chance.pick(&others).copied() else { return };
        let network = &mut world.context.network;
        let here = network.host(Address::Broker(behind));
        for node in known.replicas.iter().filter(|node| **node != behind) {
            let there = network.host(Address::Broker(*node));
            network.cut(here, there);
            network.cut(there, here);
        }
        self.ends(&mut world.context, Undo::Network, lasts);
        let soon = self.chance.between(20, 700) * MILLI;
        self.ends(&mut world.context, Undo::Power(tp), soon);
    }

    fn leader_loses_power(&mut self, world: &mut World, tp: TopicPartition) {
        let leader = world.control.newest().state.partition(tp).and_then(|partition| partition.leader);
        let down_for = self.chance.between(100, 2_000) * MILLI;
        if let Some(leader) = leader.filter(|_| !self.spares(world)) {
            world.kill(leader, world.context.params.flush_before_ack, down_for);
        }
    }

    /// A machine is replaced. It is down for a while; whether its disk may be gone is asked when it comes
    /// back. At most once in a run, and not amid switches, where a group may have two voters for a while.
    fn lose_disk(&mut self, world: &mut World, node: u64, lasts: Micros) {
        let all_are_up = world.brokers.values().all(|broker| broker.is_up());
        let is_switching = world.context.params.mode == Mode::Switching;
        if self.lost.is_some() || self.losing.is_some() || !all_are_up || is_switching {
            return;
        }
        self.losing = Some(node);
        self.spared_until = world.context.now + lasts + SPARED;
        world.kill(node, false, lasts);
    }

    /// A broker's process is about to start.
    pub fn before_start(&mut self, world: &mut World, node: u64) {
        if self.losing != Some(node) {
            return;
        }
        self.losing = None;
        let state = world.control.newest().state;
        if !state.partitions().all(|(tp, partition)| can_do_without(&state, tp, partition, node)) {
            return world.context.note(format_args!("broker {node} keeps its disk"));
        }
        self.lost = Some(node);
        self.spared_until = world.context.now + SPARED;
        world.context.note(format_args!("broker {node} has lost its disk"));
        world.broker(node).data = DataDir::new(self.chance.uuid());
    }

    /// Whether nobody may die now.
    fn spares(&self, world: &World) -> bool {
        let is_unknown = |node: u64| {
            let known = world.control.newest().state.brokers.get(&node).map(|broker| broker.storage);
            known != Some(world.brokers[&node].data.storage)
        };
        world.context.now < self.spared_until || self.lost.is_some_and(is_unknown)
    }

    fn cut(&mut self, world: &mut World, kind: Kind, node: u64, lasts: Micros) {
        let network = &mut world.context.network;
        let here = network.host(Address::Broker(node));
        let members = world.control.members().map(Address::Member);
        let brokers = (1..=world.context.params.brokers).map(Address::Broker);
        let mut hosts: Vec<Host> = members.chain(brokers).map(|a| network.host(a)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let with_bucket = self.chance.permille(300);
        if with_bucket {
            hosts.push(network.host(Address::Bucket));
        }
        let clients: Vec<Host> = world.clients.keys().map(|c| network.host(Address::Client(*c))).collect();
        if self.chance.permille(300) {
            hosts.extend(clients);
        }
        match kind {
            Kind::CutOneWay => {
                let outwards = self.chance.permille(500);
                let some = self.chance.permille(500);
                for there in hosts.into_iter().filter(|h| *h != here) {
                    if some && self.chance.permille(500) {
                        continue;
                    }
                    if outwards { network.cut(here, there) } else { network.cut(there, here) }
                }
            }
            Kind::Split => {
                let sides: Vec<bool> = hosts.iter().map(|_| self.chance.permille(500)).collect();
                for (a, left) in hosts.iter().zip(&sides) {
                    for (b, _) in hosts.iter().zip(&sides).filter(|(_, right)| *right != left) {
                        network.cut(*a, *b);
                    }
                }
            }
            _ => {
                for there in hosts {
                    network.cut(here, there);
                    network.cut(there, here);
                }
            }
        }
        self.ends(&mut world.context, Undo::Network, lasts);
    }

    /// The leader and the control plane see each other, and neither sees the other brokers.
    fn cut_leader_from_group(&mut self, world: &mut World, tp: TopicPartition, lasts: Micros) {
        let leader = world.control.newest().state.partition(tp).and_then(|p| p.leader);
        let Some(leader) = leader.filter(|_| !world.context.params.members_on_brokers) else { return };
        let network = &mut world.context.network;
        let here = network.host(Address::Broker(leader));
        let members: Vec<Host> =
            world.control.members().map(|member| network.host(Address::Member(member))).collect();
        for other in (1..=world.context.params.brokers).filter(|other| *other != leader) {
            let there = network.host(Address::Broker(other));
            for far in members.iter().chain([&here]) {
                network.cut(*far, there);
                network.cut(there, *far);
            }
        }
        self.ends(&mut world.context, Undo::Network, lasts + 2 * SECOND);
    }

    fn bucket(&mut self, world: &mut World, kind: Kind, lasts: Micros) {
        world.bucket.weather = BucketWeather {
            is_away: kind == Kind::BucketAway,
            refused_permille: self.chance.between(0, 400),
            answer_lost_permille: self.chance.between(100, 500),
            delay_max: self.chance.between(20, 1_500) * MILLI,
        };
        self.ends(&mut world.context, Undo::Bucket, lasts);
    }

    /// A disk error; whoever has a poisoned log is restarted soon, as an operator would.
    fn disk(&mut self, world: &mut World, node: u64, fault: DiskFault, lasts: Micros) {
        let partition = self.chance.below(u64::from(world.context.params.partitions)) as u32;
        if fault == DiskFault::SyncFails && !world.context.params.flush_before_ack {
            return;
        }
        let broker = world.broker(node);
        if broker.data.inject(partition, fault) && fault == DiskFault::SyncFails {
            broker.fails_at = Some(lasts.min(SECOND));
        }
    }

    fn reassignment(&mut self, params: &Params, tp: TopicPartition) -> Command {
        let mut nodes: Vec<u64> = (1..=params.brokers).collect();
        for i in (1..nodes.len()).rev() {
            nodes.swap(i, self.chance.below(i as u64 + 1) as usize);
        }
        nodes.truncate(params.replication_factor as usize);
        let replicas = if self.chance.permille(100) { None } else { Some(nodes) };
        Command::Reassign { tp, replicas }
    }
}

/// Whether the promise holds without what the node has of the partition, whoever is cut off before that is
/// known. Of a group's voters most keep their word. Under fetch replication others are counted on, and the
/// node cannot become the only one that is: it has left the in-sync set, or that set would then be too small
/// for the high watermark to move, so that whoever leaves it stays eligible (KIP-966). With
/// `min.insync.replicas=1` the fencing of the others may leave a replica in sync alone; the loss of its disk
/// is then one fault too many.
fn can_do_without(state: &ClusterState, tp: TopicPartition, partition: &Partition, node: u64) -> bool {
    if !partition.replicas.contains(&node) {
        return true;
    }
    let others =
        partition.replicas.iter().filter(|other| **other != node && partition.counts_on(**other)).count();
    let is_moving = !partition.adding.is_empty() || !partition.removing.is_empty();
    if partition.raft.is_some() {
        return others >= 2 && !is_moving;
    }
    let min_isr = state.topic(tp.topic_id).map_or(1, |topic| topic.min_isr(partition));
    others >= 1 && !is_moving && (min_isr >= 2 || !partition.isr.contains(&node))
}

#[cfg(test)]
mod tests {
    use highwater_coordinator::core::{Batch, BrokerRegistration, NewTopic, RULES_VERSION};
    use highwater_model::TopicId;
    use uuid::Uuid;

    use super::*;

    /// A topic of one partition on nodes 1, 2 and 3, with this least in-sync set; then these are fenced.
    fn cluster(min_isr: &str, fenced: &[u64]) -> (ClusterState, TopicPartition) {
        let topic_id = TopicId(Uuid::from_u128(1));
        let register = |node_id| {
            let host = "sim".to_owned();
            Command::RegisterBroker(BrokerRegistration { node_id, host, port: 1, ..Default::default() })
        };
        let topic = NewTopic {
            topic_id,
            name: "t".into(),
            partitions: 1,
            replication_factor: 3,
            assignments: vec![vec![1, 2, 3]],
            configs: [("min.insync.replicas".to_owned(), min_isr.to_owned())].into(),
        };
        let form = Command::FormCluster { cluster_id: "c".into(), members: BTreeMap::new() };
        let mut commands = vec![form];
        commands.extend((1..=3).map(register));
        commands.push(Command::CreateTopic(topic));
        let fence = |node_id: &u64| Command::FenceBroker { node_id: *node_id, broker_epoch: 1 };
        commands.extend(fenced.iter().map(fence));
        let mut state = ClusterState::default();
        let answers = state.apply_batch(&Batch { rules: RULES_VERSION, at_ms: 1, commands });
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        (state, TopicPartition::new(topic_id, 0))
    }

    fn is_spared(min_isr: &str, fenced: &[u64], node: u64) -> bool {
        let (state, tp) = cluster(min_isr, fenced);
        let partition = state.partition(tp).expect("there");
        can_do_without(&state, tp, partition, node)
    }

    #[test]
    fn a_disk_goes_only_where_its_node_cannot_be_left_alone_in_sync() {
        assert!(!is_spared("1", &[], 2), "the others may be fenced, and then it is elected");
        assert!(is_spared("1", &[2], 2), "it has left the set, the others are in it");
        assert!(is_spared("2", &[], 2), "whoever is fenced stays eligible");
        assert!(is_spared("2", &[1, 2], 2) && is_spared("2", &[1, 2, 3], 3));
        assert!(!is_spared("1", &[1, 2, 3], 3), "the last one was in sync alone");
        assert!(is_spared("1", &[1, 2, 3], 1), "another one was");
        assert!(is_spared("1", &[], 4), "no replica");
    }
}
