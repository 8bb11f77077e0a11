"""Table of groups and transactions in bench/README.md: what is shown of bench/results/groups.json, and the targets."""

import report

BEGIN, END = "<!-- groups: begin -->", "<!-- groups: end -->"
COLUMNS = ("kafka", "highwater")

# As in report.py: system, start of the case, figure, kind of bound, bound. How long a rebalance takes is mostly heartbeats'
# intervals, which fall at random; it is shown without a target.
TARGETS = [
    ("highwater", "", "per_s", "ratio at least", 1.0),
    ("highwater", "", "load_s", "ratio at most", 1.0),
    ("highwater", "", "server_cpu_us", "ratio at most", 0.5),
    ("highwater", "", "server_cpu_s", "ratio at most", 0.5),
]
FIGURES = {
    "assigned_s": "s until each has its partitions",
    "join_s": "s, one more joins",
    "leave_s": "s, it leaves",
    "per_s": "per s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "server_cpu_us": "broker CPU us each",
    "load_s": "s from the first answer of any kind",
    "loaded_s": "s from the start of the process",
    "server_cpu_s": "broker CPU s",
    "rss_mib": "RSS MiB",
}
# The CPU of these is shown for each operation.
LEFT_OUT = {(first, "server_cpu_s") for first in ("commit", "transactions", "fill:")}


def lines(results):
    table = report.collect(results["rows"], FIGURES, LEFT_OUT)
    yield from report.heading(results["about"])
    yield from report.table_of(table, COLUMNS, FIGURES, TARGETS, lambda *row: report.reference(table, *row))
    yield ""
    yield from report.strangers(results["rows"])


def write(results, path):
    report.put(lines(results), path, BEGIN, END)
