//! Brokers and coordinators in processes of their own: the control plane's leader is killed, and then all of
//! it, while clients produce and fetch.

use std::time::{Duration, Instant};

use highwater_minio_tests::chaos::ledger::{self, Acks};
use highwater_minio_tests::clients::{Beside, java_command, python, python_command};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::{PATIENCE, pause, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

/// First id of a coordinator.
const COORDINATORS: u64 = 11;
/// Name and settings of the topics that the clients use.
const TOPICS: [(&str, &[&str]); 1] = [("steady", &[])];
/// Twice as long as a broker's session.
const ALL_AWAY: Duration = Duration::from_secs(12);
/// A killed coordinator has no part in produce and fetch: what they may wait longer than usual is the noise
/// of a machine that is busy.
const UNDISTURBED_MAX_MS: u64 = 1_500;

/// Until a client must have its last answer. They give up earlier by themselves, with their reasons.
const FINISH_MAX: Duration = Duration::from_secs(400);

struct Scene {
    brokers: Vec<Highwater>,
    coordinators: Vec<Highwater>,
    of_brokers: Vec<Spec>,
    of_coordinators: Vec<Spec>,
    _minio: Minio,
    work: Work,
}

fn start(specs: &[Spec]) -> Vec<Highwater> {
    specs.iter().map(Spec::spawn).collect()
}

impl Scene {
    fn set() -> Scene {
        let work = Work::new("control-plane");
        let minio = Minio::start(&work);
        let (of_brokers, of_coordinators) = Spec::with_coordinators_apart(&work, &minio.endpoint(), 3);
        let (mut coordinators, mut brokers) = (start(&of_coordinators), start(&of_brokers));
        coordinators.iter_mut().chain(&mut brokers).for_each(Highwater::wait_ready);
        Scene { brokers, coordinators, of_brokers, of_coordinators, _minio: minio, work }
    }

    fn kafka(&self) -> String {
        self.of_brokers.iter().map(Spec::kafka).collect::<Vec<_>>().join(",")
    }

    fn create(&self, topic: &str, more: &[&str]) {
        let kafka = self.kafka();
        let mut arguments = vec!["create", &kafka, topic, "6", "replicas=3", "min.insync.replicas=2"];
        arguments.extend(["segment.bytes=1048576", "retention.ms=-1"]);
        arguments.extend(more);
        python("topics.py", &arguments);
    }

    fn clients(&self) -> Vec<Beside> {
        let (kafka, topics) = (self.kafka(), TOPICS.map(|(name, _)| name).join(","));
        let start = |name: &str, what: &str, number: &str, ledger: &str| {
            let ledger = self.work.join(ledger);
            let path = ledger.to_string_lossy();
            let arguments = [what, &kafka, &topics, number, &path, "500"];
            let given = if what == "produce" { &arguments[..] } else { &arguments[..5] };
            let command = match name {
                "java" => java_command("Chaos", given),
                _ => python_command("chaos.py", given),
            };
            let log = self.work.join(&format!("{name}-{what}"));
            Beside::start(&format!("{name} {what}"), command, &log)
        };
        vec![
            start("python", "produce", "1", "acked-1"),
            start("java", "produce", "2", "acked-2"),
            start("python", "consume", "3", "read-3"),
        ]
    }

    fn ledger_entries(&self, name: &str) -> u64 {
        ledger::entries(&self.work.join(name))
    }

    /// Both producers and the reader get on.
    fn flows(&self) {
        for name in ["acked-1", "acked-2", "read-3"] {
            let wanted = self.ledger_entries(name) + 500;
            let reached = until(PATIENCE, || (self.ledger_entries(name) >= wanted).then_some(()));
            assert!(reached.is_some(), "{name} does not grow within {PATIENCE:?}");
        }
    }

    /// The index of the coordinator that leads, by any broker's word.
    fn leading(&self) -> usize {
        let found = until(PATIENCE, || {
            let status = self.brokers[0].ask("cluster", &["status"]).ok()?;
            let leader = status["coordinator_leader"].as_u64()?.checked_sub(COORDINATORS)?;
            usize::try_from(leader).ok()
        });
        found.expect("a coordinator leads")
    }

    /// Waits until every broker says that all is well.
    fn settle(&self) {
        let mut last = String::new();
        let well = until(PATIENCE, || {
            for broker in &self.brokers {
                let status = broker.ask("cluster", &["status"]);
                last = format!("{status:?}");
                let status = status.ok()?;
                let live = status["brokers"].as_array()?.iter().filter(|b| b["state"] == "live").count();
                let zero = |name: &str| status[name].as_u64() == Some(0);
                let is_led = status["coordinator_leader"].as_u64()? >= COORDINATORS;
                (zero("under_replicated") && zero("leaderless") && is_led && live == 3).then_some(())?;
            }
            Some(())
        });
        assert!(well.is_some(), "not well within {PATIENCE:?}: {last}");
    }

    /// The longest silence of any partition from then on, in milliseconds.
    fn longest_since(&self, began_ms: u64) -> u64 {
        let topics: Vec<u16> = (0..).take(TOPICS.len()).collect();
        Acks::read(self.work.path()).longest_silences(&topics, &[began_ms])[0]
    }
}

#[test]
fn without_a_control_plane_clients_go_on() {
    let mut scene = Scene::set();
    for (name, more) in TOPICS {
        scene.create(name, more);
    }
    scene.settle();
    let mut clients = scene.clients();
    scene.flows();

    for round in 0..2 {
        let leader = scene.leading();
        step(format!("round {round}: kill -9 of coordinator {}, which leads the control plane", 11 + leader));
        let began_ms = ledger::now_ms();
        scene.coordinators[leader].process.kill();
        let began = Instant::now();
        let next = until(PATIENCE, || (scene.leading() != leader).then_some(()));
        assert!(next.is_some(), "no other coordinator leads");
        let told = began.elapsed();
        pause(Duration::from_secs(4).saturating_sub(told));
        scene.flows();
        let longest = scene.longest_since(began_ms);
        step(format!(
            "another leads after {:.1} s; no partition waited longer than {longest} ms",
            told.as_secs_f64()
        ));
        assert!(longest < UNDISTURBED_MAX_MS, "produce waited {longest} ms for a coordinator");
        scene.coordinators[leader] = scene.of_coordinators[leader].start();
    }

    step("kill -9 of all coordinators");
    let began_ms = ledger::now_ms();
    scene.coordinators.iter_mut().for_each(|node| node.process.kill());
    let deadline = Instant::now() + ALL_AWAY;
    let kafka = scene.kafka();
    let refused = python("topics.py", &["refused", &kafka, "unborn"]);
    step(format!("CreateTopics: {refused}"));
    assert_eq!(refused["retriable"], true, "{refused}");
    pause(deadline.saturating_duration_since(Instant::now()));
    clients.iter_mut().for_each(Beside::check);
    scene.flows();
    step("a client that is new finds its way too");
    let told = python("topics.py", &["leaders", &kafka, TOPICS[0].0]);
    assert_eq!(told["leaders"].as_array().map(Vec::len), Some(6), "{told}");
    let longest = scene.longest_since(began_ms);
    let away = (ledger::now_ms() - began_ms) / 1000;
    step(format!("{away} s without a control plane; no partition waited longer than {longest} ms"));
    assert!(longest < UNDISTURBED_MAX_MS, "produce waited {longest} ms without a control plane");

    step("a broker is killed too: who needs it waits, and goes on once the coordinators are back");
    scene.brokers[2].process.kill();
    pause(Duration::from_secs(3));
    scene.coordinators = start(&scene.of_coordinators);
    scene.brokers[2] = scene.of_brokers[2].spawn();
    scene.coordinators.iter_mut().for_each(Highwater::wait_ready);
    scene.brokers[2].wait_ready();
    scene.settle();
    scene.flows();
    python("topics.py", &["create", &kafka, "unborn", "1", "replicas=3"]);
    for client in clients {
        step(format!("a client has finished: {}", client.finish(FINISH_MAX)));
    }
    let (topics, directory) =
        (TOPICS.map(|(name, _)| name).join(","), scene.work.path().to_string_lossy().into_owned());
    let told = python("chaos.py", &["verify", &kafka, &topics, &directory]);
    step(format!("every acknowledged record once, in order, as read: {told}"));
    for node in scene.brokers.into_iter().chain(scene.coordinators) {
        node.stop();
    }
}
