//! DescribeLogDirs v1 to v4: the one directory of the local log and what each partition holds in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_wire::kafka::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use highwater_wire::kafka::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use super::admin;
use crate::node::Node;
use crate::partition::registry::Topic;

pub async fn handle(
    node: &Arc<Node>,
    _version: i16,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let view = node.partitions.view();
    let topics: Vec<DescribeLogDirsTopic> = match request.topics {
        None => {
            let by_name: BTreeMap<&str, &Arc<Topic>> = view.topics().map(|t| (t.name.as_ref(), t)).collect();
            by_name.into_values().map(|topic| sizes(topic, None)).collect()
        }
        Some(asked) => asked
            .iter()
            .filter_map(|asked| Some(sizes(view.by_name(asked.topic.as_str())?, Some(&asked.partitions))))
            .collect(),
    };
    let data_dir = &node.settings.data_dir;
    let dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.clone());
    let space = rustix::fs::statvfs(data_dir).ok();
    let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
        let found = space.as_ref().map(|s| blocks(s).saturating_mul(s.f_frsize));
        found.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
    };
    let result = DescribeLogDirsResult::default()
        .with_log_dir(admin::text(&dir.display().to_string()))
        .with_topics(topics)
        .with_total_bytes(bytes(|s| s.f_blocks))
        .with_usable_bytes(bytes(|s| s.f_bavail));
    DescribeLogDirsResponse::default().with_results(vec![result])
}

/// Sizes of the partitions asked for, each once; of all if none are named.
fn sizes(topic: &Topic, only: Option<&[i32]>) -> DescribeLogDirsTopic {
    let only = only.map(|numbers| {
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        numbers
    });
    let partitions = topic
        .partitions()
        .filter(|p| only.as_ref().is_none_or(|only| only.binary_search(&p.tp.partition).is_ok()))
        .map(|partition| {
            let bytes = partition.local_use().bytes;
            DescribeLogDirsPartition::default()
                .with_partition_index(partition.tp.partition)
                .with_partition_size(i64::try_from(bytes).unwrap_or(i64::MAX))
        });
    DescribeLogDirsTopic::default().with_name(admin::name(&topic.name)).with_partitions(partitions.collect())
}
