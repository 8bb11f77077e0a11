"""Tables of the clusters in bench/README.md: what is shown of bench/results/cluster.json, and the targets."""

import statistics

import report

BEGIN, END = "<!-- cluster: begin -->", "<!-- cluster: end -->"
COLUMNS = ("kafka", "highwater-fetch", "highwater-raft")

# As in report.py: system, start of the case, figure, kind of bound, bound.
TARGETS = [
    ("highwater-fetch", "kill -9", "out_p99_s", "at most", 3.0),
    ("highwater-raft", "kill -9", "out_p99_s", "at most", 2.0),
    ("highwater", "SIGSTOP", "out_p99_s", "ratio at most", 1.0),
    ("highwater", "produce", "mb_s", "ratio at least", 1.0),
    ("highwater", "produce", "server_cpu_s_per_gb", "ratio at most", 1.0),
    ("highwater", "latency", "p99_ms", "ratio at most", 1.0),
    ("highwater-raft", "idle, 1,000 partitions", "idle_cores_pct", "at most", 10),
    ("highwater-raft", "idle, 1,000 partitions", "kib_per_replica", "at most", 64),
    ("highwater", "add a replica", "max_s", "at most", 10),
    ("highwater", "create a topic", "seen_p99_ms", "ratio at most", 1.0),
]
FIGURES = {
    "out_p50_s": "s without a leader, p50",
    "out_p99_s": "s without a leader, p99",
    "in_sync_s": "s until all in sync again, worst",
    "mb_s": "MB/s",
    "server_cpu_s_per_gb": "CPU s/GB, three brokers",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "created_s": "s until created",
    "written_s": "s until each is in sync and written",
    "idle_cores_pct": "% of a core, busiest broker",
    "kib_per_replica": "KiB per replica",
    "rss_mib": "RSS MiB, largest broker",
    "median_s": "median s",
    "max_s": "longest s",
    "answered_p50_ms": "answered, p50 ms",
    "answered_p99_ms": "answered, p99 ms",
    "seen_p50_ms": "known to all nodes, p50 ms",
    "seen_p99_ms": "known to all nodes, p99 ms",
    "pause_median_ms": "longest wait for an ack, median ms",
    "pause_max_ms": "longest wait for an ack, worst ms",
}
LEFT_OUT = {("latency", "server_cpu_s_per_gb")}


def kafka_of(_case, _figure, systems):
    return next((statistics.median(values) for name, values in systems.items() if name == "kafka"), None)


def lines(results):
    rows = [row | {"system": row["system"].removesuffix("-flush")} for row in results["rows"]]
    table = report.collect(rows, FIGURES, LEFT_OUT)
    yield from report.heading(results["about"])
    yield from report.table_of(table, COLUMNS, FIGURES, TARGETS, kafka_of)
    yield ""
    for row in rows:
        if "strikes" in row:
            slowest = ", ".join(f"{s:.2f}" for s in row["slowest_of_each"])
            yield f"- {row['case']}, {row['system']}: the slowest partition of each strike took {slowest} s"
    yield ""
    yield from report.strangers(rows)


def write(results, path):
    report.put(lines(results), path, BEGIN, END)
