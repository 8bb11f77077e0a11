//! Three nodes in networks of their own under load and faults (`make chaos`): nothing lost, nothing twice,
//! nothing out of order, nobody stuck, and all well at the end.
//!
//! Load and readers are confluent-kafka and Kafka's Java client. `HIGHWATER_CHAOS_SECONDS` and
//! `HIGHWATER_CHAOS_SEED` say for how long and in which order; a run of `make test` is one round of all
//! faults.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_minio_tests::chaos::ledger::{self, Acks};
use highwater_minio_tests::chaos::report::{self, Done};
use highwater_minio_tests::chaos::schedule::{Kind, NODES, Schedule, Step};
use highwater_minio_tests::clients::{Beside, java_command, python_command, python_in};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::net::{Disk, HUB, Net};
use highwater_minio_tests::process::{PATIENCE, pause, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

/// MinIO's place in the network.
const STORE: usize = NODES + 1;
const DISK_MIB: u64 = 256;
/// Of each producer.
const RECORDS_PER_SECOND: &str = "200";
/// Until all must be well again after the last fault: brokers live, every replica in sync, no move left.
const HEALING_MAX: Duration = Duration::from_secs(180);
/// Until a client must have its last answer. They give up earlier by themselves, with their reasons.
const FINISH_MAX: Duration = Duration::from_secs(400);
/// No partition may be silent for longer, whatever was done: faults last up to 9 s, sessions 6 s, clients
/// repeat a request without an answer after 10 s, and the next fault may come right after.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Name, partitions, replicas, and more of each topic.
const FETCH_TOPICS: [(&str, &str, &[&str]); 2] = [
    ("triples", "4", &["replicas=3", "min.insync.replicas=2"]),
    ("pairs", "2", &["replicas=2", "min.insync.replicas=1"]),
];
const RAFT_TOPIC: (&str, &str, &[&str]) =
    ("voters", "4", &["replicas=3", "min.insync.replicas=2", "highwater.replication=raft"]);
const MOVED: &str = "pairs";

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

struct Scene {
    nodes: Vec<Highwater>,
    specs: Vec<Spec>,
    minio: Minio,
    disks: Vec<Disk>,
    net: Arc<Net>,
    work: Work,
    topics: Vec<&'static str>,
}

impl Scene {
    fn set(name: &str, has_raft: bool) -> Scene {
        let work = Work::new(name);
        let net = Arc::new(Net::new(work.path(), STORE));
        let minio = Minio::start_in(&work, &net, STORE);
        let disks: Vec<Disk> = (1..=NODES).map(|n| net.disk(&format!("node-{n}"), DISK_MIB)).collect();
        let data: Vec<PathBuf> = disks.iter().map(Disk::data).collect();
        let specs = Spec::cluster_in(&net, &work, &minio.endpoint(), &data).into_iter();
        let specs: Vec<Spec> =
            specs.map(|spec| spec.flag("retention-check-ms", "1s").flag("cache-bytes", "16MiB")).collect();
        let mut nodes: Vec<Highwater> = specs.iter().map(Spec::spawn).collect();
        nodes.iter_mut().for_each(Highwater::wait_ready);
        let mut scene = Scene { nodes, specs, minio, disks, net, work, topics: Vec::new() };
        for topic in FETCH_TOPICS.iter().chain(has_raft.then_some(&RAFT_TOPIC)) {
            scene.create(topic);
        }
        scene
    }

    fn create(&mut self, (name, partitions, more): &(&'static str, &str, &[&str])) {
        let kafka = self.kafka();
        let mut arguments = vec!["create", &kafka, name, partitions];
        arguments.extend(*more);
        arguments.extend(["segment.bytes=262144", "local.retention.bytes=524288", "retention.ms=-1"]);
        python_in(&self.net, "topics.py", &arguments);
        self.topics.push(name);
    }

    fn kafka(&self) -> String {
        self.specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",")
    }

    /// The topics by number; those that a group of clients leaves alone are marked so.
    fn topics_of(&self, group: &[u16]) -> String {
        let name = |(number, topic): (u16, &&str)| match group.contains(&number) {
            true => (*topic).to_owned(),
            false => format!("-{topic}"),
        };
        (0..).zip(&self.topics).map(name).collect::<Vec<String>>().join(",")
    }

    /// Two producers for each group of topics, as one that waits for one topic keeps others waiting that go
    /// to the same broker; then two readers of all.
    fn clients(&self, groups: &[(&str, Vec<u16>)]) -> Vec<Beside> {
        let kafka = self.kafka();
        let start = |name: &str, topics: &str, what: &str, number: usize| {
            let ledger =
                self.work.join(&format!("{}-{number}", if what == "produce" { "acked" } else { "read" }));
            let (path, number) = (ledger.to_string_lossy(), number.to_string());
            let arguments = [what, &kafka, topics, &number, &path, RECORDS_PER_SECOND];
            let given = if what == "produce" { &arguments[..] } else { &arguments[..5] };
            let command = match name {
                "java" => java_command("Chaos", given),
                _ => python_command("chaos.py", given),
            };
            let log = self.work.join(&format!("{name}-{what}-{number}"));
            Beside::start(&format!("{name} {what} {number}"), self.net.inside(HUB, &command), &log)
        };
        let mut clients = Vec::new();
        for (_, group) in groups {
            for name in ["python", "java"] {
                clients.push(start(name, &self.topics_of(group), "produce", clients.len() + 1));
            }
        }
        for name in ["python", "java"] {
            clients.push(start(name, &self.topics.join(","), "consume", clients.len() + 1));
        }
        clients
    }

    fn acknowledged(&self) -> u64 {
        let files = std::fs::read_dir(self.work.path()).into_iter().flatten().flatten();
        let acked = files.filter(|file| file.file_name().to_string_lossy().starts_with("acked-"));
        acked.map(|file| ledger::entries(&file.path())).sum()
    }

    /// Does one fault and undoes it.
    fn inflict(&mut self, fault: Step) {
        let (node, index) = (fault.node, fault.node - 1);
        let others: Vec<usize> = (1..=NODES).filter(|other| *other != node).collect();
        match fault.kind {
            Kind::Kill => {
                self.nodes[index].process.kill();
                pause(fault.lasts);
                self.nodes[index] = self.specs[index].spawn();
            }
            Kind::Restart => {
                self.stop(index);
                pause(fault.lasts);
                self.nodes[index] = self.specs[index].spawn();
            }
            Kind::Pause => {
                self.nodes[index].process.signal("STOP");
                pause(fault.lasts);
                self.nodes[index].process.signal("CONT");
            }
            Kind::StoreDown => {
                self.minio.kill();
                pause(fault.lasts);
                self.minio.start_again();
            }
            Kind::DiskFull => {
                self.disks[index].fill();
                pause(fault.lasts);
                self.disks[index].free();
            }
            Kind::Move => {
                self.begin_moves(node);
                pause(fault.lasts);
            }
            Kind::CutBoth | Kind::CutIn | Kind::CutOut | Kind::CutPair | Kind::CutStore | Kind::Unplug => {
                self.cut(fault.kind, node, &others);
                pause(fault.lasts);
                self.net.heal();
            }
        }
    }

    fn cut(&self, kind: Kind, node: usize, others: &[usize]) {
        let (cut, peers): (_, &[usize]) = match kind {
            Kind::Unplug => return self.net.unplug(node),
            Kind::CutStore => ((true, true), &[STORE]),
            Kind::CutPair => ((true, true), &others[..1]),
            Kind::CutIn => ((true, false), others),
            Kind::CutOut => ((false, true), others),
            _ => ((true, true), others),
        };
        for peer in peers {
            if cut.0 {
                self.net.cut(*peer, node);
            }
            if cut.1 {
                self.net.cut(node, *peer);
            }
        }
    }

    /// SIGTERM; it must end in order.
    fn stop(&mut self, index: usize) {
        let process = &mut self.nodes[index].process;
        process.signal("TERM");
        let status = process.wait(PATIENCE);
        assert!(status.is_some_and(|s| s.success()), "SIGTERM gave {status:?}: {}", process.log_end());
    }

    /// Replicas to two nodes from this one on, and leaders to where they belong. While the cluster is not
    /// well it may be refused.
    fn begin_moves(&self, first: usize) {
        let second = first % NODES + 1;
        let to = format!("{first},{second}");
        if let Err(said) = self.nodes[first - 1].ask("cluster", &["move", MOVED, "--replicas", &to]) {
            step(format!("    the move is refused: {said}"));
        }
        let elected = python_in(&self.net, "topics.py", &["elect", &self.kafka(), self.topics[0]]);
        step(format!("    {MOVED} to {to}; elected: {elected}"));
    }

    /// Why not all is well, as some node sees it; none if it is.
    fn trouble(&self) -> Option<String> {
        self.nodes.iter().find_map(|node| match node.ask("cluster", &["status"]) {
            Err(said) => Some(said),
            Ok(status) => {
                let none = ["under_replicated", "leaderless", "moving"];
                let is_well = none.iter().all(|name| status[name].as_u64() == Some(0));
                let brokers = status["brokers"].as_array().map_or(&[][..], Vec::as_slice);
                let are_live = brokers.len() == NODES && brokers.iter().all(|b| b["state"] == "live");
                let is_led = status["coordinator_leader"].as_u64().is_some_and(|leader| leader > 0);
                (!(is_well && are_live && is_led)).then(|| status.to_string())
            }
        })
    }

    /// Waits until all is well.
    fn settle(&mut self, limit: Duration) {
        let mut trouble = None;
        let well = until(limit, || {
            for node in &mut self.nodes {
                let ended = node.process.ended();
                assert!(ended.is_none(), "a node ended by itself, {ended:?}: {}", node.process.log_end());
            }
            trouble = self.trouble();
            if trouble.is_some() {
                pause(Duration::from_millis(100));
            }
            trouble.is_none().then_some(())
        });
        assert!(well.is_some(), "not well {limit:?} after the fault's end: {}", trouble.unwrap_or_default());
    }

    fn verify(&self, when: &str) -> serde_json::Value {
        let (topics, directory) = (self.topics.join(","), self.work.path().to_string_lossy());
        let told = python_in(&self.net, "chaos.py", &["verify", &self.kafka(), &topics, &directory]);
        step(format!("{when}: every acknowledged record once, in order, as read: {told}"));
        told
    }
}

/// The faults of the seed, one after another, for so long.
fn torment(scene: &mut Scene, clients: &mut [Beside], seed: u64, seconds: u64) -> Vec<Done> {
    let (began, mut done) = (Instant::now(), Vec::new());
    let mut schedule = Schedule::new(seed);
    while began.elapsed() < Duration::from_secs(seconds) {
        let fault = schedule.next().expect("a schedule has no end");
        let (name, node, lasts) = (fault.kind.name(), fault.node, fault.lasts.as_secs_f64());
        let before = scene.acknowledged();
        step(format!("node {node}: {name}, {lasts:.1} s; {before} records acknowledged"));
        let began_ms = ledger::now_ms();
        scene.inflict(fault);
        let ended = Instant::now();
        let healing = fault.settles.then(|| {
            scene.settle(HEALING_MAX);
            ended.elapsed()
        });
        clients.iter_mut().for_each(Beside::check);
        pause(fault.rest);
        done.push(Done { kind: fault.kind, began_ms, healing });
    }
    done
}

#[test]
fn clients_lose_nothing_whatever_happens_to_the_nodes() {
    let seconds = setting("HIGHWATER_CHAOS_SECONDS", 75);
    let seed = setting("HIGHWATER_CHAOS_SEED", 1);
    let has_raft = setting("HIGHWATER_CHAOS_RAFT", 1) != 0;
    let mut scene = Scene::set("chaos", has_raft);
    scene.settle(HEALING_MAX);
    let mut groups = vec![("fetch", vec![0, 1])];
    if has_raft {
        groups.push(("raft", vec![2]));
    }
    let mut clients = scene.clients(&groups);
    let begun = until(PATIENCE, || (scene.acknowledged() > 1_000).then_some(()));
    assert!(begun.is_some(), "the load does not begin");
    step(format!("seed {seed}, {seconds} s of faults on {}", scene.topics.join(", ")));
    let done = torment(&mut scene, &mut clients, seed, seconds);

    step("no more faults");
    scene.settle(HEALING_MAX);
    pause(Duration::from_secs(2));
    for client in clients {
        let told = client.finish(FINISH_MAX);
        step(format!("a client has finished: {told}"));
    }
    let acks = Acks::read(scene.work.path());
    for line in report::table(&done, &acks, &groups).lines() {
        step(line);
    }
    let all: Vec<u16> = groups.into_iter().flat_map(|(_, topics)| topics).collect();
    let longest = report::longest(&done, &acks, &all);
    step(format!(
        "{} faults, {} records acknowledged, longest silence {longest} ms",
        done.len(),
        acks.count()
    ));
    assert!(u128::from(longest) < SILENCE_MAX.as_millis(), "a partition was silent for {longest} ms");

    let hot = scene.verify("after the faults");
    for topic in &scene.topics {
        scene.nodes[0].offload(topic);
    }
    let cold = scene.verify("from the tier");
    assert_eq!(hot["digest"], cold["digest"], "the tier has other records than the replicas had");
    scene.settle(HEALING_MAX);
    for index in 0..NODES {
        scene.stop(index);
    }
}
