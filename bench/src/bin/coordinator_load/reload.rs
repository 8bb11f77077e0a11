//! Very many offsets, and how soon a broker that starts again can say them.
//!
//! `ask` is begun before the broker and counts from its own start: when the first request of any kind was
//! answered, and when every group had been answered with its offset. `check` reads all of them.

use std::thread;
use std::time::{Duration, Instant};

use highwater_wire::kafka::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use highwater_wire::kafka::messages::{ApiVersionsRequest, OffsetFetchRequest};

use crate::commits::{commit, group_id, send, topic_name};
use crate::connection::{Connection, KeyType, PATIENCE, PAUSE, may_ask_again, pause};
use crate::{Took, figures};

const CONNECTIONS: usize = 8;
/// Groups of one request: as few as any broker takes.
const GROUPS_PER_REQUEST: usize = 100;
/// Until a broker that was just started listens.
const START: Duration = Duration::from_millis(5);

fn name(group: usize) -> String {
    format!("reload-{group:05}")
}

/// What group `group` commits for every partition.
fn offset(group: usize) -> i64 {
    1_000 + group as i64
}

pub fn fill(address: &str, topic: &str, groups: usize, offsets: usize) -> Result<String, String> {
    let partitions: Vec<i32> = (0..offsets as i32).collect();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(address)?);
    }
    connections[0].find_coordinators(&[name(0)], KeyType::Group)?;
    let began = Instant::now();
    let took = thread::scope(|scope| {
        let work = |(number, mut connection): (usize, Connection)| {
            let partitions = &partitions;
            scope.spawn(move || -> Result<Took, String> {
                let (mut took, topic) = (Took::default(), topic_name(topic));
                for group in (number..groups).step_by(CONNECTIONS) {
                    let sent = Instant::now();
                    let request = commit(&group_id(name(group)), &topic, partitions, offset(group));
                    send(&mut connection, &request)?;
                    took.since(sent);
                }
                Ok(took)
            })
        };
        let threads: Vec<_> = connections.into_iter().enumerate().map(work).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(figures(took, began.elapsed().as_secs_f64()))
}

/// The offsets of `groups`, of the first `offsets` partitions each. Those that are not ready come back.
fn fetch(
    connection: &mut Connection,
    topic: &str,
    groups: &[usize],
    offsets: usize,
    until: Instant,
) -> Result<Vec<usize>, String> {
    let partitions: Vec<i32> = (0..offsets as i32).collect();
    let asked = groups.iter().map(|&group| {
        let wanted = OffsetFetchRequestTopics::default().with_name(topic_name(topic));
        let wanted = wanted.with_partition_indexes(partitions.clone());
        OffsetFetchRequestGroup::default()
            .with_group_id(group_id(name(group)))
            .with_member_epoch(-1)
            .with_topics(Some(vec![wanted]))
    });
    let response = connection.call(9, &OffsetFetchRequest::default().with_groups(asked.collect()))?;
    if response.groups.len() != groups.len() {
        return Err(format!("OffsetFetch: {} groups of {}", response.groups.len(), groups.len()));
    }
    let mut waiting = Vec::new();
    for (&group, answer) in groups.iter().zip(&response.groups) {
        if *answer.group_id.0 != *name(group) {
            return Err(format!("OffsetFetch: {:?} instead of {}", answer.group_id, name(group)));
        }
        if answer.error_code != 0 {
            may_ask_again("OffsetFetch", answer.error_code, until)?;
            waiting.push(group);
            continue;
        }
        let found = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let right = found.filter(|found| found.error_code == 0 && found.committed_offset == offset(group));
        if right.count() != offsets {
            return Err(format!("{}: an offset is lost", name(group)));
        }
    }
    Ok(waiting)
}

/// A connection to a broker that may not be up yet, once it has answered on it.
fn first_answer(address: &str, until: Instant) -> Result<Connection, String> {
    loop {
        let opened = Connection::open(address).and_then(|mut connection| {
            connection.call(0, &ApiVersionsRequest::default()).map(|_| connection)
        });
        match opened {
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => pause(START),
            Ok(connection) => return Ok(connection),
        }
    }
}

pub fn ask(address: &str, topic: &str, groups: usize) -> Result<String, String> {
    let began = Instant::now();
    let until = began + PATIENCE;
    let mut connection = first_answer(address, until)?;
    let ready = began.elapsed();
    let mut waiting: Vec<usize> = (0..groups).collect();
    while !waiting.is_empty() {
        let mut left = Vec::new();
        for part in waiting.chunks(GROUPS_PER_REQUEST) {
            left.extend(fetch(&mut connection, topic, part, 1, until)?);
        }
        waiting = left;
        if !waiting.is_empty() {
            pause(PAUSE);
        }
    }
    let loaded = began.elapsed();
    Ok(format!(
        "\"ready_s\": {:.3}, \"loaded_s\": {:.3}, \"load_s\": {:.3}",
        ready.as_secs_f64(),
        loaded.as_secs_f64(),
        (loaded - ready).as_secs_f64()
    ))
}

/// Every offset is there.
pub fn check(address: &str, topic: &str, groups: usize, offsets: usize) -> Result<String, String> {
    let began = Instant::now();
    let mut connection = Connection::open(address)?;
    let all: Vec<usize> = (0..groups).collect();
    for part in all.chunks(GROUPS_PER_REQUEST) {
        if !fetch(&mut connection, topic, part, offsets, began)?.is_empty() {
            return Err("a group that was loaded is not".to_owned());
        }
    }
    Ok(format!("\"seconds\": {:.3}", began.elapsed().as_secs_f64()))
}
