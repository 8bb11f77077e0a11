//! Running the client scripts of `clients/` and `node/`, and the programs of `java/` and `go/`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::minio::{PASSWORD, USER};
use crate::net::{HUB, Net};
use crate::process::{PATIENCE, until};
use crate::tools;

fn script(name: &str) -> PathBuf {
    tools::root().join("minio-tests/clients").join(name)
}

/// Runs a Python client script to its end; it must exit with 0. Returns the JSON of its last line.
pub fn python(name: &str, arguments: &[&str]) -> Value {
    finish(&format!("{name} {arguments:?}"), python_command(name, arguments))
}

/// The same from a network's hub.
pub fn python_in(net: &Net, name: &str, arguments: &[&str]) -> Value {
    finish(&format!("{name} {arguments:?}"), net.inside(HUB, &python_command(name, arguments)))
}

pub fn python_command(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(tools::python());
    command.arg(script(name)).args(arguments);
    command.env("AWS_ACCESS_KEY_ID", USER).env("AWS_SECRET_ACCESS_KEY", PASSWORD);
    command
}

/// kcat through its script.
pub fn kcat(arguments: &[&str]) -> Value {
    tools::ensure("kcat");
    python("kcat.py", arguments)
}

/// The Java client program.
pub fn java(arguments: &[&str]) -> Value {
    java_program("Roundtrip", arguments)
}

/// One of the Java client programs.
pub fn java_program(class: &str, arguments: &[&str]) -> Value {
    finish(&format!("{class} {arguments:?}"), java_command(class, arguments))
}

pub fn java_command(class: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", &tools::java_class_path(), class]);
    command.args(arguments);
    command
}

/// The Go clients.
pub fn go(arguments: &[&str]) -> Value {
    finish(&format!("goclients {arguments:?}"), go_command(arguments))
}

pub fn go_command(arguments: &[&str]) -> Command {
    tools::ensure("go");
    let mut command = Command::new(tools::root().join("target/tools/goclients"));
    command.args(arguments);
    command
}

/// KafkaJS.
pub fn kafkajs(arguments: &[&str]) -> Value {
    finish(&format!("kafkajs.js {arguments:?}"), kafkajs_command(arguments))
}

pub fn kafkajs_command(arguments: &[&str]) -> Command {
    tools::ensure("node");
    let mut command = Command::new("node");
    command.arg(tools::root().join("minio-tests/node/kafkajs.js")).args(arguments);
    command.env("NODE_PATH", tools::root().join("target/node/node_modules"));
    command
}

/// One of Kafka's own command-line tools, by its class below org.apache.kafka.tools. What it wrote, on both
/// outputs together, and whether it ended with 0.
pub fn kafka_tool(class: &str, arguments: &[&str]) -> (bool, String) {
    tools::ensure("kafka");
    let mut command = Command::new("java");
    let jars = tools::root().join("target/kafka/lib/*");
    command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"]).arg(jars);
    command.arg(format!("org.apache.kafka.tools.{class}")).args(arguments).stdin(Stdio::null());
    // Some of them leave a directory where they run.
    command.current_dir(tools::root().join("target"));
    let done = command.output().unwrap_or_else(|e| panic!("cannot run java: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    (done.status.success(), text)
}

fn finish(name: &str, mut command: Command) -> Value {
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot run {name}: {e}"));
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    let tail: Vec<&str> = err.lines().rev().take(15).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    assert!(done.status.success(), "{name}: {}\n{}", done.status, tail.join("\n"));
    last_json(name, &out)
}

fn last_json(name: &str, out: &str) -> Value {
    let line = out.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{name} printed no JSON ({e}): {out}"))
}

/// Longest that a load takes to end. It gives up earlier by itself, with its reasons.
const LOAD_END_MAX: Duration = Duration::from_secs(360);

/// The steady producer of `clients/load.py`, running beside the test.
pub struct Load {
    child: Child,
    kafka: String,
    topic: String,
    ledger: PathBuf,
}

impl Load {
    pub fn start(kafka: &str, topic: &str, ledger: PathBuf, megabytes_per_second: f64) -> Load {
        let mut command = Command::new(tools::python());
        command.arg(script("load.py")).args(["run", kafka, topic]).arg(&ledger);
        command.arg(megabytes_per_second.to_string());
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let child = spawned.unwrap_or_else(|e| panic!("cannot start load.py: {e}"));
        Load { child, kafka: kafka.to_owned(), topic: topic.to_owned(), ledger }
    }

    /// Acknowledged records so far, as far as they have reached the ledger.
    pub fn acknowledged(&self) -> u64 {
        const ENTRY_BYTES: u64 = 20;
        std::fs::metadata(&self.ledger).map_or(0, |meta| meta.len()) / ENTRY_BYTES
    }

    /// Waits until some more records have been acknowledged, which nothing may keep from happening.
    pub fn wait_for_more(&mut self, records: u64) {
        let wanted = self.acknowledged() + records;
        let reached = until(PATIENCE, || {
            let over = self.child.try_wait().expect("a child can be waited for");
            assert!(over.is_none(), "the load ended early: {over:?}");
            (self.acknowledged() >= wanted).then_some(())
        });
        assert!(reached.is_some(), "no {records} more acknowledgements within {PATIENCE:?}");
    }

    /// Stops producing, waits for every acknowledgement. The report has acked, p50_ms, p99_ms, max_ms.
    pub fn finish(mut self) -> Value {
        if let Some(mut input) = self.child.stdin.take() {
            let _ = input.flush();
        }
        let ended = until(LOAD_END_MAX, || self.child.try_wait().expect("a child can be waited for"));
        let status = ended.expect("the load ends once it has its acknowledgements");
        let mut out = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            std::io::Read::read_to_string(&mut pipe, &mut out).expect("a pipe can be read");
        }
        assert!(status.success(), "load.py: {status}");
        last_json("load.py", &out)
    }

    /// Replays the topic: every acknowledged record exactly once, in place, intact.
    pub fn verify(kafka: &str, topic: &str, ledger: &std::path::Path) -> Value {
        python("load.py", &["verify", kafka, topic, &ledger.to_string_lossy()])
    }

    pub fn target(&self) -> (String, String, PathBuf) {
        (self.kafka.clone(), self.topic.clone(), self.ledger.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that runs beside the test until its standard input ends; then it finishes and reports.
pub struct Beside {
    name: String,
    child: Child,
    out: PathBuf,
}

impl Beside {
    /// Its outputs go to `log`.out and `log`.err.
    pub fn start(name: &str, mut command: Command, log: &std::path::Path) -> Beside {
        let (out, err) = (log.with_extension("out"), log.with_extension("err"));
        let file = |path| std::fs::File::create(path).expect("the work directory is writable");
        command.stdin(Stdio::piped()).stdout(file(&out)).stderr(file(&err));
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Beside { name: name.to_owned(), child, out }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fails the test if it has ended already.
    pub fn check(&mut self) {
        let over = self.child.try_wait().expect("a child can be waited for");
        assert!(over.is_none(), "{} ended early: {over:?}: {}", self.name, self.said());
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("it is open until `finish`");
        writeln!(input, "{line}").unwrap_or_else(|e| panic!("{} does not listen: {e}", self.name));
    }

    /// Waits until it has written this line so many times.
    pub fn wait_said(&mut self, line: &str, times: usize, limit: Duration) {
        let said = until(limit, || {
            self.check();
            let text = std::fs::read_to_string(&self.out).unwrap_or_default();
            (text.lines().filter(|said| *said == line).count() >= times).then_some(())
        });
        assert!(said.is_some(), "{} does not say {line:?} within {limit:?}: {}", self.name, self.said());
    }

    /// Lets it finish, which it must within the limit. Its report.
    pub fn finish(mut self, limit: Duration) -> Value {
        drop(self.child.stdin.take());
        let ended = until(limit, || self.child.try_wait().expect("a child can be waited for"));
        let status = ended.unwrap_or_else(|| panic!("{} is stuck for {limit:?}: {}", self.name, self.said()));
        assert!(status.success(), "{}: {status}: {}", self.name, self.said());
        last_json(&self.name, &std::fs::read_to_string(&self.out).unwrap_or_default())
    }

    fn said(&self) -> String {
        let text = std::fs::read_to_string(self.out.with_extension("err")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
