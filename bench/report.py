"""Turns recorded results into the table of bench/README.md: medians, [least-most], ratios, targets."""

import statistics

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

# case prefix, figure, target for Highwater: (kind, bound), against the Kafka row of the same case.
TARGETS = [
    ("produce 1024 B", "mb_s", ("ratio at least", 1.0)),
    ("produce 1024 B", "server_cpu_s_per_gb", ("ratio at most", 1 / 3)),
    ("produce 100 B", "mb_s", ("ratio at least", 1.0)),
    ("produce 100 B", "server_cpu_s_per_gb", ("ratio at most", 1 / 3)),
    ("latency", "p99_ms", ("ratio at most", 0.5)),
    ("hot fetch", "mb_s", ("ratio at least", 1.0)),
    ("hot fetch", "server_cpu_s_per_gb", ("ratio at most", 0.5)),
    ("start to ready, empty", "ready_s", ("at most", 0.3)),
    ("start to ready, 1,000 partitions", "ready_s", ("at most", 1.0)),
    ("idle", "rss_mib", ("at most", 48)),
    ("idle", "idle_cores_pct", ("at most", 0.5)),
]
TIER_TARGETS = [
    ("highwater-local", "replay from the tier, cold", "mb_s", ("ratio at least", 1.0)),
    ("highwater-local", "replay from the tier, cold", "server_cpu_s_per_gb", ("ratio at most", 2 / 3)),
    ("highwater-minio-zstd", "replay from the tier, cold", "mb_s", ("at least", 300)),
    ("highwater-minio-lz4", "replay from the tier, cold", "mb_s", ("at least", 350)),
    ("highwater-minio", "replay from the tier, cold", "server_cpu_s_per_gb", ("at most", 2.2)),
    ("highwater-minio-zstd", "produce and seal", "server_cpu_s_per_gb", ("at most", 14.5 / 2)),
    ("highwater-minio-lz4", "produce and seal", "server_cpu_s_per_gb", ("at most", 14.5 / 3)),
    ("highwater-minio", "first record at a cold offset, warm", "median_ms", ("at most", 30)),
    ("highwater-minio", "first record at a cold offset, after", "first_ms", ("at most", 100)),
    ("highwater", "bytes in the tier, 1 KiB none", "tier_bytes", ("ratio at most", 0.25)),
    ("highwater", "bytes in the tier, zstd producer", "tier_bytes", ("ratio at most", 1.05)),
]
FIGURES = {"mb_s": "MB/s", "records_s": "records/s", "server_cpu_s_per_gb": "broker CPU s/GB", "store_cpu_s": "MinIO CPU s",
           "p50_ms": "p50 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms", "first_ms": "first ms", "median_ms": "median ms",
           "max_ms": "most ms", "ready_s": "s", "rss_mib": "MiB", "idle_cores_pct": "% of a core", "tier_bytes": "bytes",
           "seconds_until_all_is_in_the_tier": "s until all is in the tier"}


def number(value):
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(values):
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"**{middle}** [{number(min(values))}–{number(max(values))}]"


def collect(rows):
    """(case, figure) -> system -> values; in order of first appearance."""
    table = {}
    for row in rows:
        for figure in FIGURES:
            if figure == "first_ms" and row["case"].startswith(("replay", "hot")):
                continue
            if isinstance(row.get(figure), (int, float)):
                table.setdefault((row["case"], figure), {}).setdefault(row["system"], []).append(row[figure])
    return table


def judged(case, figure, system, value, reference):
    for prefix, wanted, target in TARGETS:
        if case.startswith(prefix) and figure == wanted and system == "highwater":
            return verdict(target, value, reference)
    for start, prefix, wanted, target in TIER_TARGETS:
        if system.startswith(start) and case.startswith(prefix) and figure == wanted:
            return verdict(target, value, reference)
    return ""


def verdict(target, value, reference):
    kind, bound = target
    if kind.startswith("ratio"):
        if not reference:
            return ""
        value = value / reference
        text = f"{kind.removeprefix('ratio ')} {bound:.2f} x Kafka"
    else:
        text = f"{kind} {number(bound)}"
    met = value >= bound if kind.endswith("least") else value <= bound
    return f"{text}: {'met' if met else '**missed**'}"


def lines(results):
    about = results["about"]
    yield (f"{about['date']}, commit {about['revision']}: {about['cores']} cores ({about['cpu']}), Linux {about['kernel']}, "
           f"Kafka {about['kafka']} on JDK {about['java']} with 1 GiB heap, {about['runs']} runs taking turns; "
           f"`{about['command']}`." + (" **Quick loads: these figures say nothing about speed.**" if about["quick"] else ""))
    yield ""
    yield "| case | figure | system | median [least–most] | x Kafka | target |"
    yield "|---|---|---|---|---|---|"
    table = collect(results["rows"])
    for (case, figure), systems in table.items():
        # Kafka does not keep what it has read from its tier: its second replay is its cold one with warm code.
        reference = table.get((case.replace("replay from the tier, cold", "replay from the tier, again"), figure), systems)
        kafka = next((statistics.median(v) for s, v in reference.items() if s.startswith("kafka")), None)
        for system, values in systems.items():
            middle = statistics.median(values)
            own = system.startswith("kafka")
            ratio = f"{middle / kafka:.2f}" if kafka and not own else ""
            target = "" if own else judged(case, figure, system, middle, kafka)
            yield f"| {case} | {FIGURES[figure]} | {system} | {cell(values)} | {ratio} | {target} |"
    strange = [r["strangers_cores"] for r in results["rows"] if "strangers_cores" in r]
    if strange:
        yield ""
        yield (f"Other processes used {statistics.median(strange):.2f} cores in the middle measurement, "
               f"{max(strange):.2f} in the worst.")


def write(results, path):
    text = path.read_text() if path.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    path.write_text(head + BEGIN + "\n" + "\n".join(lines(results)) + "\n" + END + tail)
    print(f"{path} written")
