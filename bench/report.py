"""Turns recorded results into the tables of bench/README.md: medians, [least–most], ratios, targets."""

import statistics

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

# systems (start of the name), case (start), figure, kind of bound, bound; "ratio" is against Kafka's row.
TARGETS = [
    ("highwater", "produce 1024 B", "mb_s", "ratio at least", 1.0),
    ("highwater", "produce 1024 B", "server_cpu_s_per_gb", "ratio at most", 1 / 3),
    ("highwater", "produce 100 B", "mb_s", "ratio at least", 1.0),
    ("highwater", "produce 100 B", "server_cpu_s_per_gb", "ratio at most", 1 / 3),
    ("highwater", "latency", "p99_ms", "ratio at most", 0.5),
    ("highwater", "hot fetch", "mb_s", "ratio at least", 1.0),
    ("highwater", "hot fetch", "server_cpu_s_per_gb", "ratio at most", 0.5),
    ("highwater", "start to ready, empty", "ready_s", "at most", 0.3),
    ("highwater", "start to ready, 1,000 partitions", "ready_s", "at most", 1.0),
    ("highwater", "idle", "rss_mib", "at most", 48),
    ("highwater", "idle", "idle_cores_pct", "at most", 0.5),
    ("highwater-local", "replay from the tier, cold", "mb_s", "ratio at least", 1.0),
    ("highwater-local", "replay from the tier, cold", "server_cpu_s_per_gb", "ratio at most", 2 / 3),
    ("highwater-minio-zstd", "replay from the tier, cold", "mb_s", "at least", 300),
    ("highwater-minio-lz4", "replay from the tier, cold", "mb_s", "at least", 350),
    ("highwater-minio", "replay from the tier, cold", "server_cpu_s_per_gb", "at most", 2.2),
    ("highwater-minio-zstd", "produce and seal", "server_cpu_s_per_gb", "at most", 14.5 / 2),
    ("highwater-minio-lz4", "produce and seal", "server_cpu_s_per_gb", "at most", 14.5 / 3),
    ("highwater-minio", "first record at a cold offset, warm", "median_ms", "at most", 30),
    ("highwater-minio", "first record at a cold offset, after", "first_ms", "at most", 100),
    ("highwater-local-zstd", "bytes in the tier, 1 KiB none", "tier_mb", "ratio at most", 0.25),
    ("highwater-minio-zstd", "bytes in the tier, 1 KiB none", "tier_mb", "ratio at most", 0.25),
    ("highwater-local-zstd", "bytes in the tier, zstd producer", "tier_mb", "ratio at most", 1.05),
    ("highwater-minio-zstd", "bytes in the tier, zstd producer", "tier_mb", "ratio at most", 1.05),
    ("highwater", "memory after", "rss_mib", "at most", 128 + 100),
]
FIGURES = {
    "mb_s": "MB/s",
    "server_cpu_s_per_gb": "broker CPU s/GB",
    "store_cpu_s": "MinIO CPU s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "first_ms": "first ms",
    "median_ms": "median ms",
    "ready_s": "s",
    "rss_mib": "RSS MiB",
    "idle_cores_pct": "% of a core",
    "tier_mb": "MB",
    "seconds_until_all_is_in_the_tier": "s until all is in the tier",
}
# Figures that say nothing of a case.
LEFT_OUT = {
    ("latency", "server_cpu_s_per_gb"),
    ("replay", "first_ms"),
    ("hot", "first_ms"),
    ("first", "store_cpu_s"),
}


def number(value):
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def collect(rows, figures=FIGURES, left_out=LEFT_OUT):
    """(case, figure) -> system -> values; in order of first appearance."""
    table = {}
    for row in rows:
        if "tier_bytes" in row:
            row["tier_mb"] = row["tier_bytes"] / 1e6
        for figure in figures:
            if isinstance(row.get(figure), (int, float)) and (row["case"].split()[0], figure) not in left_out:
                table.setdefault((row["case"], figure), {}).setdefault(row["system"], []).append(row[figure])
    return table


def verdict(targets, system, case, figure, value, reference):
    """What the target is and whether it is met; None if there is none."""
    for start, prefix, wanted, kind, bound in targets:
        if system.startswith(start) and case.startswith(prefix) and figure == wanted:
            if kind.startswith("ratio"):
                if not reference:
                    return None
                value, text = value / reference, f"{kind.removeprefix('ratio at ')} {bound:.2f}x"
            else:
                text = f"{kind.removeprefix('at ')} {number(bound)}"
            return text, value >= bound if kind.endswith("least") else value <= bound
    return None


def cell(values, reference, judged):
    middle = statistics.median(values)
    text = number(middle)
    if len(values) > 1:
        text = f"**{text}** [{number(min(values))}–{number(max(values))}]"
    if reference:
        text += f" {middle / reference:.2f}x"
    if judged:
        text += f" ({judged[0]}: {'met' if judged[1] else '**MISSED**'})"
    return text


def tables(results):
    table = collect(results["rows"])
    for shown in (
        ("kafka", "highwater"),
        (
            "kafka-local",
            "highwater-local-zstd",
            "highwater-local-lz4",
            "highwater-minio-zstd",
            "highwater-minio-lz4",
        ),
    ):
        rows = {key: systems for key, systems in table.items() if any(s in shown for s in systems)}
        columns = [s for s in shown if any(s in systems for systems in rows.values())]
        if not columns:
            continue
        yield from table_of(rows, columns, FIGURES, TARGETS, lambda *row: reference(table, *row))
        yield ""


def reference(table, case, figure, systems):
    """Kafka's figure for this row. Kafka does not keep what it has read from its tier: its second replay is its cold
    one with warm code."""
    same = table.get((case.replace("replay from the tier, cold", "replay from the tier, again"), figure), systems)
    return next((statistics.median(v) for s, v in same.items() if s.startswith("kafka")), None)


def table_of(table, columns, figures, targets, reference):
    """Markdown of these rows; `reference` gives Kafka's figure for one of them."""
    yield "| case | figure | " + " | ".join(columns) + " |"
    yield "|---|---|" + "---|" * len(columns)
    for (case, figure), systems in table.items():
        kafka = reference(case, figure, systems)
        cells = []
        for system in columns:
            values, own = systems.get(system), system.startswith("kafka")
            judged = None
            if values and not own:
                judged = verdict(targets, system, case, figure, statistics.median(values), kafka)
            cells.append(cell(values, None if own else kafka, judged) if values else "")
        yield f"| {case} | {figures[figure]} | " + " | ".join(cells) + " |"


def beside_sealing(table):
    """How much slower producing is while segments are sealed and uploaded."""
    alone = table.get(("produce 1024 B acks=all none librdkafka", "mb_s"), {}).get("highwater")
    sealing = table.get(("produce and seal 1 KiB none", "mb_s"), {})
    for system, values in sealing.items():
        if alone and system.startswith("highwater"):
            part = statistics.median(values) / statistics.median(alone)
            yield (
                f"- {system}: produces {part:.2f} times as fast as without tier work "
                f"(least 0.85: {'met' if part >= 0.85 else '**MISSED**'})"
            )


def heading(about):
    yield (
        f"{about['date']}, commit {about['revision']}: {about['cores']} cores ({about['cpu']}), Linux {about['kernel']}, "
        f"Kafka {about['kafka']} on JDK {about['java']} with 1 GiB heap, {about['runs']} runs taking turns; "
        f"`{about['command']}`. Each cell: median, [least–most], times Kafka's, (target: met or missed)."
    )
    if about["quick"]:
        yield "\n**Quick loads: these figures say nothing about speed.**"
    yield ""


def strangers(rows):
    strange = [r["strangers_cores"] for r in rows if "strangers_cores" in r]
    if strange:
        yield (
            f"Other processes used {statistics.median(strange):.2f} cores in the middle measurement, "
            f"{max(strange):.2f} in the worst."
        )


def lines(results):
    yield from heading(results["about"])
    yield from tables(results)
    yield from beside_sealing(collect(results["rows"]))
    yield ""
    yield from strangers(results["rows"])


def write(results, path):
    put(lines(results), path, BEGIN, END)


def put(lines, path, begin, end):
    """Replaces what stands between the two marks."""
    text = path.read_text() if path.exists() else f"# Benchmarks\n\n{begin}\n{end}\n"
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    path.write_text(head + begin + "\n" + "\n".join(lines) + "\n" + end + tail)
    print(f"{path} written")
