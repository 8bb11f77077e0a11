//! Kafka's own command-line tools, many of them one after another in one JVM (`java/Tools.java`).
//!
//! Owns the JVM, which ends with it. Each tool is run by its main method, as its script would run it, and
//! told by its exit code and what it wrote. Must not: judge what was written.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::tools;

/// How a tool ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code; -1 where it did not end by itself, or threw something.
    pub code: i64,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Both outputs.
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// The words of each line of the standard output that begins with this word.
    pub fn rows(&self, first: &str) -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
        self.out.lines().map(words).filter(|row| row.first().is_some_and(|word| word == first)).collect()
    }

    /// The JSON of each line of the standard output that tells of this event.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let lines = self.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|event| event["name"] == name).collect()
    }
}

/// The JVM, with the bootstrap address that each of its tools gets.
pub struct KafkaShell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    kafka: String,
}

impl KafkaShell {
    pub fn start(kafka: &str) -> KafkaShell {
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", &tools::kafka_class_path(), "Tools"]);
        // Some of them leave a directory where they run.
        command.current_dir(tools::root().join("target"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run java: {e}"));
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        KafkaShell { child, input, output, kafka: kafka.to_owned() }
    }

    /// Runs a tool by its class, which is below org.apache.kafka.tools unless it says otherwise.
    pub fn run(&mut self, class: &str, arguments: &[&str]) -> Said {
        self.run_with(class, arguments, "")
    }

    /// The same with something to read.
    pub fn run_with(&mut self, class: &str, arguments: &[&str], input: &str) -> Said {
        let class = match class.starts_with("kafka.") {
            true => class.to_owned(),
            false => format!("org.apache.kafka.tools.{class}"),
        };
        let arguments = [&["--bootstrap-server", &self.kafka], arguments].concat();
        let command = json!({"class": class, "arguments": arguments, "input": input});
        writeln!(self.input, "{command}").unwrap_or_else(|e| panic!("{command}: {e}"));
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap_or_else(|e| panic!("{command}: {e}"));
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{command}: {e}: {line}"));
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        Said { code: said["code"].as_i64().unwrap_or(-1), out: text("out"), err: text("err") }
    }

    /// Runs a tool that must end with this code.
    pub fn ends(&mut self, code: i64, class: &str, arguments: &[&str]) -> Said {
        let said = self.run(class, arguments);
        assert_eq!(said.code, code, "{class} {arguments:?}: {}", said.text());
        said
    }
}

impl Drop for KafkaShell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
