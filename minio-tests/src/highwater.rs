//! A `highwater serve` process and its command line, as a user has them.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::minio::{BUCKET, PASSWORD, USER};
use crate::net::{HUB, Net, address};
use crate::process::{PATIENCE, Process, free_port, until};
use crate::work::Work;
use crate::{http, tools};

/// What to start. Ports are chosen once so that a restart is found by its clients.
#[derive(Clone)]
pub struct Spec {
    data: PathBuf,
    log: PathBuf,
    /// The network that it is in, and where there; none: the machine's own loopback.
    net: Option<(Arc<Net>, usize)>,
    host: String,
    ports: [u16; 3],
    flags: Vec<String>,
    env: Vec<(String, String)>,
}

impl Spec {
    /// A node on the bucket `s3://tier/hw` at this endpoint.
    pub fn on_s3(work: &Work, endpoint: &str) -> Spec {
        let mut spec = Spec::embedded(work);
        spec = spec.flag("object-store", &format!("s3://{BUCKET}/hw")).flag("s3-endpoint", endpoint);
        spec.env("AWS_ACCESS_KEY_ID", USER)
            .env("AWS_SECRET_ACCESS_KEY", PASSWORD)
            .env("AWS_REGION", "us-east-1")
    }

    /// A node on the embedded store.
    pub fn embedded(work: &Work) -> Spec {
        Spec {
            data: work.join("data"),
            log: work.join("highwater.log"),
            net: None,
            host: "127.0.0.1".to_owned(),
            ports: [free_port(), free_port(), free_port()],
            flags: Vec::new(),
            env: Vec::new(),
        }
    }

    /// `count` nodes of one cluster on the bucket, brokers and coordinators both; one rack each.
    pub fn cluster(work: &Work, endpoint: &str, count: u16) -> Vec<Spec> {
        let specs: Vec<Spec> = (1..=count).map(|id| Spec::on_s3(work, endpoint).numbered(work, id)).collect();
        let members = Spec::members(&specs);
        specs.into_iter().map(|spec| spec.flag("coordinators", &members)).collect()
    }

    /// Brokers 1, 2, .. and three coordinators 11, 12 and 13, each a process of its own.
    pub fn with_coordinators_apart(work: &Work, endpoint: &str, brokers: u16) -> (Vec<Spec>, Vec<Spec>) {
        let node = |id: u16| Spec::on_s3(work, endpoint).numbered(work, id);
        let coordinators: Vec<Spec> = (11..=13).map(|id| node(id).flag("roles", "coordinator")).collect();
        let members = Spec::members(&coordinators);
        let with_members = |spec: Spec| spec.flag("coordinators", &members);
        let brokers = (1..=brokers).map(|id| with_members(node(id).flag("roles", "broker"))).collect();
        (brokers, coordinators.into_iter().map(with_members).collect())
    }

    /// One node of a cluster in each of the first `data.len()` places of a network, with its data there.
    pub fn cluster_in(net: &Arc<Net>, work: &Work, endpoint: &str, data: &[PathBuf]) -> Vec<Spec> {
        const PORTS: [u16; 3] = [9092, 9093, 9094];
        let node = |(id, data): (u16, &PathBuf)| {
            let mut spec = Spec::on_s3(work, endpoint).numbered(work, id);
            let place = usize::from(id);
            (spec.net, spec.host) = (Some((net.clone(), place)), address(place));
            (spec.ports, spec.data) = (PORTS, data.clone());
            spec
        };
        let specs: Vec<Spec> = (1..).zip(data).map(node).collect();
        let members = Spec::members(&specs);
        specs.into_iter().map(|spec| spec.flag("coordinators", &members)).collect()
    }

    /// Node `id` with a directory, a log and a rack of its own.
    pub fn numbered(self, work: &Work, id: u16) -> Spec {
        let mut spec = self.flag("node-id", &id.to_string()).flag("rack", &format!("rack-{id}"));
        spec.data = work.join(&format!("data-{id}"));
        spec.log = work.join(&format!("highwater-{id}.log"));
        spec
    }

    /// What `--coordinators` is for a cluster of these.
    pub fn members(specs: &[Spec]) -> String {
        let member = |spec: &Spec| format!("{}={}", spec.id(), spec.grpc());
        specs.iter().map(member).collect::<Vec<String>>().join(",")
    }

    /// The same node on another data directory, at other ports.
    pub fn moved_to(mut self, data: PathBuf) -> Spec {
        (self.data, self.ports) = (data, [free_port(), free_port(), free_port()]);
        self
    }

    /// At the gRPC address of another, which does not run.
    pub fn at_grpc_of(mut self, other: &Spec) -> Spec {
        self.ports[1] = other.ports[1];
        self
    }

    /// The node id; 1 where none was given.
    pub fn id(&self) -> u16 {
        let given = self.flags.iter().find_map(|flag| flag.strip_prefix("--node-id="));
        given.map_or(1, |id| id.parse().expect("a node id is a number"))
    }

    pub fn flag(mut self, name: &str, value: &str) -> Spec {
        self.flags.retain(|flag| !flag.starts_with(&format!("--{name}=")));
        self.flags.push(format!("--{name}={value}"));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Spec {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn kafka(&self) -> String {
        format!("{}:{}", self.host, self.ports[0])
    }

    pub fn grpc(&self) -> String {
        format!("{}:{}", self.host, self.ports[1])
    }

    pub fn data(&self) -> &PathBuf {
        &self.data
    }

    fn command(&self) -> Command {
        let mut command = Command::new(tools::highwater());
        for name in std::env::vars().map(|(name, _)| name) {
            if name.starts_with("HIGHWATER_") || name.starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").arg("--data-dir").arg(&self.data).args(["--log-format", "json"]);
        for (flag, port) in ["--kafka", "--grpc", "--http"].into_iter().zip(self.ports) {
            command.arg(flag).arg(format!("{}:{port}", self.host));
        }
        command.args(&self.flags).envs(self.env.iter().cloned());
        match &self.net {
            Some((net, place)) => net.inside(*place, &command),
            None => command,
        }
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) -> Highwater {
        let mut node = self.spawn();
        node.wait_ready();
        node
    }

    /// Starts it; it may not serve before other nodes are there.
    pub fn spawn(&self) -> Highwater {
        let said_before = std::fs::metadata(&self.log).map_or(0, |meta| meta.len() as usize);
        let process = Process::start(&mut self.command(), &self.log);
        Highwater { process, spec: self.clone(), said_before }
    }

    /// Starts what must refuse to serve: exit status, seconds until then, and what it said.
    pub fn start_and_fail(&self) -> (ExitStatus, Duration, String) {
        let _ = std::fs::remove_file(&self.log);
        let started = Instant::now();
        let mut process = Process::start(&mut self.command(), &self.log);
        let status = process.wait(PATIENCE);
        let status = status.unwrap_or_else(|| panic!("highwater goes on: {}", process.log_end()));
        (status, started.elapsed(), process.log())
    }
}

/// A serving node.
pub struct Highwater {
    pub process: Process,
    spec: Spec,
    /// Bytes that earlier processes have left in the log.
    said_before: usize,
}

impl Highwater {
    /// Waits until it serves.
    pub fn wait_ready(&mut self) {
        let ready = until(PATIENCE, || {
            let log = self.process.log();
            let new = log.get(self.said_before..);
            if new.is_some_and(|new| new.lines().any(|line| line.contains("\"ready\""))) {
                return Some(true);
            }
            self.process.ended().is_some().then_some(false)
        });
        assert_eq!(ready, Some(true), "highwater did not get ready: {}", self.process.log_end());
    }

    pub fn kafka(&self) -> String {
        self.spec.kafka()
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Prometheus text; of a node on the loopback.
    pub fn metrics(&self) -> String {
        let (status, body) =
            http::get(&format!("127.0.0.1:{}", self.spec.ports[2]), "/metrics").expect("/metrics answers");
        assert_eq!(status, 200, "/metrics: {body}");
        body
    }

    /// Sum of all series of a metric whose labels contain `label` (any if empty).
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.metrics();
        let series = text.lines().filter(|line| !line.starts_with('#') && line.contains(label));
        let values = series.filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let base = key.split('{').next()?;
            (base == name || base == format!("{name}_total")).then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }

    /// `highwater tier ...`: exit code 0 demanded, standard output as JSON.
    pub fn tier(&self, arguments: &[&str]) -> Value {
        self.command("tier", arguments)
    }

    /// `highwater cluster ...`, likewise.
    pub fn cluster(&self, arguments: &[&str]) -> Value {
        self.command("cluster", arguments)
    }

    /// The same, asked again while it is refused: a cluster that has just lost a node elects first.
    pub fn cluster_in_time(&self, arguments: &[&str]) -> Value {
        let mut said = String::new();
        let told = until(PATIENCE, || self.ask("cluster", arguments).map_err(|refused| said = refused).ok());
        told.unwrap_or_else(|| panic!("highwater cluster {arguments:?}: {said}\n{}", self.process.log_end()))
    }

    fn command(&self, of: &str, arguments: &[&str]) -> Value {
        let told = self.ask(of, arguments);
        told.unwrap_or_else(|said| panic!("highwater {of} {arguments:?}: {said}\n{}", self.process.log_end()))
    }

    /// `highwater OF ...` about this node, as JSON; what it said where it failed.
    pub fn ask(&self, of: &str, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(tools::highwater());
        command.arg(of).args(arguments).args(["--grpc", &self.spec.grpc(), "--output", "json"]);
        if let Some((net, _)) = &self.spec.net {
            command = net.inside(HUB, &command);
        }
        let done = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        match done.status.success() {
            true => serde_json::from_str(&out).map_err(|e| format!("not JSON ({e}): {out}")),
            false => Err(format!("{}: {out}{err}", done.status)),
        }
    }

    /// `highwater group ...`, by the Kafka protocol: what it wrote; it must end with 0.
    pub fn group(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(tools::highwater());
        command.arg("group").args(arguments).args(["--kafka", &self.kafka()]);
        let done = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "highwater group {arguments:?}: {}: {out}{err}", done.status);
        out.into_owned()
    }

    /// Seals, publishes and drops the local copies of all that the topic has now.
    pub fn offload(&self, topic: &str) {
        self.tier(&["offload", topic, "--evict"]);
    }

    /// Bytes of records on the local disk, all topics.
    pub fn local_bytes(&self) -> u64 {
        segments(&self.spec.data)
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|meta| meta.len())
            .sum()
    }

    /// SIGTERM; it must end with 0 in time.
    pub fn stop(mut self) {
        self.process.signal("TERM");
        let status = self.process.wait(PATIENCE);
        let end = self.process.log_end();
        assert!(status.is_some_and(|s| s.success()), "after SIGTERM highwater gave {status:?}: {end}");
    }
}

/// Every segment file `<20 digits>.log` under a data directory, in order.
pub fn segments(data: &std::path::Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![data.join("topics")]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                open.push(path);
            } else if name
                .strip_suffix(".log")
                .is_some_and(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit()))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
