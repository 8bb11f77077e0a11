//! Kafka Connect, standalone: lines from a file to a topic and from there to another file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::process::{PATIENCE, Process, free_port, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::tools;
use highwater_minio_tests::work::Work;

const LINES: usize = 500;

/// The worker's settings and those of its two connectors, in files.
fn settings(work: &Work, kafka: &str) -> Vec<String> {
    let at = |name: &str| work.join(name).display().to_string();
    let worker = [
        format!("bootstrap.servers={kafka}"),
        format!("listeners=http://127.0.0.1:{}", free_port()),
        format!("offset.storage.file.filename={}", at("offsets")),
        "offset.flush.interval.ms=500".to_owned(),
        "key.converter=org.apache.kafka.connect.storage.StringConverter".to_owned(),
        "value.converter=org.apache.kafka.connect.storage.StringConverter".to_owned(),
        "plugin.discovery=service_load".to_owned(),
        "consumer.session.timeout.ms=10000".to_owned(),
    ];
    let source = [
        "name=source".to_owned(),
        "connector.class=org.apache.kafka.connect.file.FileStreamSourceConnector".to_owned(),
        "tasks.max=1".to_owned(),
        "topic=connected".to_owned(),
        format!("file={}", at("in.txt")),
    ];
    let sink = [
        "name=sink".to_owned(),
        "connector.class=org.apache.kafka.connect.file.FileStreamSinkConnector".to_owned(),
        "tasks.max=1".to_owned(),
        "topics=connected".to_owned(),
        format!("file={}", at("out.txt")),
    ];
    let file = |(name, lines): (&str, &[String])| {
        std::fs::write(work.join(name), lines.join("\n")).expect("the work directory is writable");
        at(name)
    };
    let files: [(&str, &[String]); 3] = [("worker", &worker), ("source", &source), ("sink", &sink)];
    files.into_iter().map(file).collect()
}

fn start(work: &Work, settings: &[String]) -> Process {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", &tools::kafka_class_path()]);
    // It leaves a directory where it runs.
    command.arg("org.apache.kafka.connect.cli.ConnectStandalone").args(settings).current_dir(work.path());
    Process::start(&mut command, &work.join("connect.log"))
}

fn write(path: &Path, first: usize) {
    let lines: String = (first..first + LINES).map(|number| format!("line {number}\n")).collect();
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("the work directory is writable");
}

/// Waits until the sink's file has so many lines; they must be those written, in order, each once.
fn wait_written(path: &Path, worker: &mut Process, count: usize) {
    let mut last = String::new();
    let there = until(PATIENCE, || {
        assert!(worker.ended().is_none(), "the worker ended: {}", worker.log_end());
        last = std::fs::read_to_string(path).unwrap_or_default();
        (last.ends_with('\n') && last.lines().count() >= count).then_some(())
    });
    assert!(there.is_some(), "{} of {count} lines: {}", last.lines().count(), worker.log_end());
    let wanted: String = (0..count).map(|number| format!("line {number}\n")).collect();
    assert!(last == wanted, "other lines than were written: {last}");
}

#[test]
fn lines_go_through_a_topic_once_though_the_worker_stops_in_the_middle() {
    let work = Work::new("connect");
    let node = Spec::embedded(&work).flag("group-initial-rebalance-delay-ms", "0ms").start();
    let (source, sink) = (work.join("in.txt"), work.join("out.txt"));
    write(&source, 0);
    let settings = settings(&work, &node.kafka());
    step("file to topic to file");
    let mut worker = start(&work, &settings);
    wait_written(&sink, &mut worker, LINES);
    write(&source, LINES);
    wait_written(&sink, &mut worker, 2 * LINES);

    step("the worker stops; the file grows; another worker goes on where it was");
    worker.signal("TERM");
    let ended = worker.wait(PATIENCE);
    assert!(ended.is_some(), "the worker does not stop: {}", worker.log_end());
    write(&source, 2 * LINES);
    let mut worker = start(&work, &settings);
    wait_written(&sink, &mut worker, 3 * LINES);
    worker.signal("TERM");
    assert!(worker.wait(PATIENCE).is_some(), "the worker does not stop: {}", worker.log_end());
    node.stop();
}
