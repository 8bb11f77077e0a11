//! The metrics of a process that is a coordinator and no broker; made when somebody asks. Names are a
//! contract with dashboards.

use highwater_coordinator::ControlStatus;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::process_usage;

/// As OpenMetrics text.
pub fn render(status: &ControlStatus) -> String {
    let mut registry = Registry::with_prefix("highwater");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("control_leader", "1 where this node leads the control plane", u64::from(status.is_leader));
    gauge("control_term", "Term of the control plane's Raft group", status.term);
    gauge("control_applied_index", "Raft index that this node has applied", status.applied);
    gauge("control_state_version", "Version of the metadata here", status.state_version);
    gauge("control_members", "Coordinators of the cluster", status.members as u64);
    gauge("control_voters", "Coordinators that vote", status.voters as u64);
    gauge("cluster_brokers", "Registered brokers", status.brokers as u64);
    gauge("cluster_brokers_fenced", "Registered brokers that are fenced", status.brokers_fenced as u64);
    gauge("cluster_topics", "Topics of the cluster", status.topics as u64);
    gauge("cluster_partitions", "Partitions of the cluster", status.partitions as u64);
    if let Some((memory_bytes, cpu_seconds)) = process_usage() {
        let help = "Resident memory of this process";
        gauge("process_resident_memory_bytes", help, memory_bytes.unsigned_abs());
        gauge("process_cpu_milliseconds", "CPU time of this process", (cpu_seconds * 1_000.0) as u64);
    }
    let mut text = String::new();
    encode(&mut text, &registry).expect("text takes everything");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_is_told_by_its_name() {
        let status = ControlStatus { is_leader: true, term: 7, voters: 3, ..ControlStatus::default() };
        let text = render(&status);
        for line in ["highwater_control_leader 1", "highwater_control_term 7", "highwater_control_voters 3"] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(text.contains("highwater_process_resident_memory_bytes") && text.ends_with("# EOF\n"));
    }
}
