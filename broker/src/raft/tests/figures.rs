//! Measurements, not tests: `cargo test --release -p highwater-broker --lib raft::tests::figures -- --ignored
//! --nocapture`. Three nodes in one process over real gRPC on loopback, real files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_log::disk::{DirDisk, Disk};
use highwater_log::{LogSettings, PartitionLog};
use highwater_model::{TopicId, TopicPartition};
use uuid::Uuid;

use super::kit::{Home, batch_of};
use super::peers::{Addresses, Served};
use crate::raft::{Beginning, RaftGroup, Role};

/// CPU seconds of this process, and its resident KiB.
fn used() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|f| f.parse::<u64>().expect("ticks")).sum();
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let resident = status.lines().find(|l| l.starts_with("VmRSS")).expect("resident");
    let kib = resident.split_whitespace().nth(1).and_then(|k| k.parse().ok()).expect("KiB");
    (ticks as f64 / 100.0, kib)
}

fn tp(number: i32) -> TopicPartition {
    TopicPartition::new(TopicId(Uuid::from_u128(9)), number)
}

async fn open(node: &Served, dir: &Path, number: i32) -> Arc<RaftGroup> {
    let disk: Arc<dyn Disk> = Arc::new(DirDisk::new(dir.join(format!("{}-{number}", node.node))));
    let (log, _) = PartitionLog::open_on(disk.clone(), LogSettings::default(), 0).expect("opens");
    let members = [(1, 1), (2, 2), (3, 3)].into();
    let beginning = Beginning::Group { replica: node.node, term: 0, offset: 0, members };
    node.host.open_group(tp(number), disk, Home::of(log), beginning, false).await.expect("opens")
}

fn leads(group: &RaftGroup) -> bool {
    matches!(group.role(), Role::Leader { takes_writes: true, .. })
}

async fn all_led(nodes: &[Served], groups: i32) {
    let led = |number| nodes.iter().any(|n| n.host.group(tp(number)).is_some_and(|g| leads(&g)));
    while !(0..groups).all(led) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn measure(groups: i32) {
    let dir = tempfile::tempdir().expect("scratch");
    let addresses = Arc::new(Addresses::default());
    let mut nodes = Vec::new();
    for node in [1, 2, 3] {
        nodes.push(Served::start(node, &addresses).await);
    }
    let (_, before_kib) = used();
    let began = Instant::now();
    for number in 0..groups {
        for node in &nodes {
            open(node, dir.path(), number).await;
        }
    }
    println!("{groups} groups: opened in {:?}", began.elapsed());
    all_led(&nodes, groups).await;
    println!("{groups} groups: all led after {:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (cpu, kib) = used();
    let idle = Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (cpu_after, _) = used();
    let share = 100.0 * (cpu_after - cpu) / idle.elapsed().as_secs_f64() / 3.0;
    let each = (kib - before_kib) as f64 / f64::from(groups * 3);
    println!("{groups} groups at rest: {share:.2} % of a core per node, {each:.1} KiB per replica");
    let dead = nodes.pop().expect("three");
    let its = (0..groups).filter(|n| dead.host.group(tp(*n)).is_some_and(|g| leads(&g))).count();
    dead.kill();
    let killed = Instant::now();
    all_led(&nodes, groups).await;
    println!("{groups} groups: {its} leaders of a dead node replaced after {:?}", killed.elapsed());
    for node in nodes {
        node.host.stop().await;
        node.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn groups_at_rest_and_a_dead_node() {
    measure(std::env::var("RAFT_GROUPS").ok().and_then(|n| n.parse().ok()).unwrap_or(300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn commits_of_one_group() {
    let dir = tempfile::tempdir().expect("scratch");
    let addresses = Arc::new(Addresses::default());
    let mut nodes = Vec::new();
    for node in [1, 2, 3] {
        nodes.push(Served::start(node, &addresses).await);
        open(nodes.last().expect("pushed"), dir.path(), 0).await;
    }
    all_led(&nodes, 1).await;
    let leader = nodes.iter().filter_map(|n| n.host.group(tp(0))).find(|g| leads(g)).expect("led");
    for producers in [1, 16, 64, 256] {
        let (began, (cpu, _)) = (Instant::now(), used());
        let each = 2_000 / producers.min(20);
        let tasks: Vec<_> = (0..producers)
            .map(|producer| {
                let group = leader.clone();
                tokio::spawn(async move {
                    let mut worst = Duration::ZERO;
                    for sequence in 0..each {
                        let id = i64::from(producers * 1_000 + producer);
                        let (header, bytes) = batch_of(&"z".repeat(16 * 1024), 1, id, sequence);
                        let began = Instant::now();
                        let appended = group.propose(&header, bytes).await.expect("appended");
                        group.committed(&appended).await.expect("committed");
                        worst = worst.max(began.elapsed());
                    }
                    worst
                })
            })
            .collect();
        let mut worst = Duration::ZERO;
        for task in tasks {
            worst = worst.max(task.await.expect("no failure"));
        }
        let (count, took) = (f64::from(producers * each), began.elapsed().as_secs_f64());
        let cpu_us = (used().0 - cpu) * 1e6 / count;
        println!(
            "{producers} producers of 16 KiB: {:.0}/s, {:.1} MB/s, {cpu_us:.0} us CPU each, worst {worst:?}",
            count / took,
            count * 16_384.0 / took / 1e6,
        );
    }
    for node in nodes {
        node.host.stop().await;
        node.kill();
    }
}
