#!/usr/bin/env python3
"""Apache Kafka and Highwater side by side: same machine, same client, same load, taking turns.

    compare.py run [--quick] [--runs N] [--only GROUP,...] [--systems NAME,...] [--out FILE]
    compare.py report FILE          writes the table into bench/README.md

Groups: plain (produce, latency, hot fetch), tier (produce and seal, replay, first record, bytes), start (start to
ready, idle). Results are one JSON object per measurement; the report takes medians and shows [least-most].
CPU is user+system time of the server process from /proc, over the whole case. Nothing runs in parallel.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "minio-tests" / "clients"))

import servers  # noqa: E402

TOPIC_PARTITIONS = 4
# name: (class, on MinIO, codec of the objects)
PLAIN = {"kafka": (servers.Kafka, False, None), "highwater": (servers.Highwater, False, None)}
TIER = {
    "kafka-local": (servers.Kafka, False, None),
    "highwater-local-zstd": (servers.Highwater, False, "zstd"),
    "highwater-local-lz4": (servers.Highwater, False, "lz4"),
    "highwater-minio-zstd": (servers.Highwater, True, "zstd"),
    "highwater-minio-lz4": (servers.Highwater, True, "lz4"),
}


class Bench:
    def __init__(self, options):
        self.options, self.rows = options, []
        self.quick = options.quick
        self.work = servers.ROOT / "target" / "bench" / f"work-{os.getpid()}"
        self.work.mkdir(parents=True)
        self.run = 0

    def scaled(self, full, quick):
        return quick if self.quick else full

    # --- one measurement ------------------------------------------------------------------------------------

    def measure(self, case, name, server, body, tier=None):
        """Runs `body`, which returns a dict; adds CPU of server and store, and what strangers used."""
        watched = [server.process.pid] + ([tier.process.pid] if tier else [])
        before, busy = [servers.cpu_seconds(pid) for pid in watched], servers.busy_seconds()
        begun = time.monotonic()
        row = body()
        took = time.monotonic() - begun
        used = [servers.cpu_seconds(pid) - b for pid, b in zip(watched, before)]
        row["server_cpu_s"] = used[0]
        if tier:
            row["store_cpu_s"] = used[1]
        if row.get("bytes"):
            row["server_cpu_s_per_gb"] = used[0] / (row["bytes"] / 1e9)
        # With a Java client this counts making its process too.
        row["strangers_cores"] = (
            servers.busy_seconds() - busy - sum(used) - row.get("client_cpu_s", 0)
        ) / took
        row |= {"case": case, "system": name, "run": self.run, "memory": server.process.memory()}
        self.rows.append(row)
        shown = {
            k: round(v, 2) for k, v in row.items() if isinstance(v, float) and k not in ("strangers_cores",)
        }
        print(f"    {case:<34} {name:<22} {json.dumps(shown)}", flush=True)
        return row

    def client(self, *arguments):
        command = [sys.executable, str(HERE / "client.py"), *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"client {arguments}: {done.stderr[-800:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def java_produce(self, server, topic, records, size, acks, codec):
        """Kafka's own ProducerPerformance."""
        payloads = servers.ROOT / "target" / "bench" / f"payloads-v2-{size}.txt"
        if not payloads.exists():
            subprocess.run(
                [sys.executable, str(HERE / "client.py"), "payloads", str(payloads), str(size), "20000"],
                check=True,
            )
        _, java = servers.newest_java()
        begun = os.times()
        done = subprocess.run(
            [
                java,
                "-Xms512m",
                "-Xmx512m",
                "-cp",
                str(servers.ROOT / "target/kafka/lib/*"),
                "org.apache.kafka.tools.ProducerPerformance",
                "--topic",
                topic,
                "--num-records",
                str(records),
                "--payload-file",
                str(payloads),
                "--throughput",
                "-1",
                "--producer-props",
                f"bootstrap.servers={server.bootstrap}",
                f"acks={acks}",
                f"compression.type={codec}",
                "linger.ms=5",
                "batch.size=131072" if size >= 500 else "batch.size=65536",
                "buffer.memory=67108864",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ended = os.times()
        lines = [line for line in done.stdout.splitlines() if "99.9th" in line]
        if done.returncode != 0 or not lines:
            raise RuntimeError(f"ProducerPerformance: {done.stdout[-800:]}")
        rate = float(lines[-1].split("records sent, ")[1].split(" records/sec")[0])
        return {
            "records": records,
            "bytes": records * size,
            "records_s": rate,
            "mb_s": rate * size / 1e6,
            "client_cpu_s": ended.children_user
            + ended.children_system
            - begun.children_user
            - begun.children_system,
        }

    # --- setting the scene ----------------------------------------------------------------------------------

    def create(self, server, topic, tiered=False, codec=None, partitions=TOPIC_PARTITIONS):
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 3})
        config = server.topic_config(tiered, codec)
        admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(60)

    def drop(self, server, topic):
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 3})
        admin.delete_topics([topic])[topic].result(60)

    def systems(self, table):
        wanted = self.options.systems.split(",") if self.options.systems else None
        order = [s for s in table if wanted is None or s in wanted or s.split("-")[0] in wanted]
        # Alternate who goes first.
        return order if self.run % 2 == 0 else order[::-1]

    def each(self, table, body):
        for name in self.systems(table):
            kind, on_minio, codec = table[name]
            shutil.rmtree(self.work / name, ignore_errors=True)
            (self.work / name).mkdir(parents=True)
            tier = servers.Minio(self.work / name) if on_minio else None
            server = None
            try:
                wanted = tier if kind is servers.Highwater else table is TIER
                server = kind(self.work / name, tier=wanted)
                body(name, server, tier, codec)
            finally:
                if server:
                    server.stop()
                if tier:
                    tier.stop()
                shutil.rmtree(self.work / name, ignore_errors=True)

    # --- groups ---------------------------------------------------------------------------------------------

    def plain(self):
        def body(name, server, _, __):
            self.create(server, "warm-up")
            self.client(
                "produce", server.bootstrap, "warm-up", self.scaled(300_000, 20_000), 1024, "all", "none"
            )
            for size, full, codecs in ((1024, 1_000_000, ("none", "lz4")), (100, 3_000_000, ("none", "lz4"))):
                for acks in ("1", "all"):
                    for codec in codecs:
                        for client in ("librdkafka", "java"):
                            self.produce_case(
                                name, server, client, size, self.scaled(full, full // 25), acks, codec
                            )
            self.create(server, "latency")
            seconds = self.scaled(20, 3)
            for rate, linger in ((10_000, 5), (1_000, 0)):
                self.measure(
                    f"latency {rate}/s linger {linger}",
                    name,
                    server,
                    lambda r=rate, q=linger: self.client(
                        "latency", server.bootstrap, "latency", seconds, r, q, "all"
                    ),
                )
            records = self.scaled(1_500_000, 60_000)
            self.create(server, "hot")
            self.client("produce", server.bootstrap, "hot", records, 1024, "all", "none")
            for _ in range(2):
                self.measure(
                    "hot fetch",
                    name,
                    server,
                    lambda: self.client("consume", server.bootstrap, "hot", records),
                )

        self.each(PLAIN, body)

    def produce_case(self, name, server, client, size, records, acks, codec):
        self.create(server, "produce")
        if client == "java":
            load = lambda: self.java_produce(server, "produce", records, size, acks, codec)  # noqa: E731
        else:
            load = lambda: self.client(
                "produce", server.bootstrap, "produce", records, size, acks, codec
            )  # noqa: E731
        self.measure(f"produce {size} B acks={acks} {codec} {client}", name, server, load)
        self.drop(server, "produce")
        time.sleep(1.5)  # deleting files is not part of the next case

    def tier(self):
        records = self.scaled(1_000_000, 60_000)

        def body(name, server, tier, codec):
            self.create(server, "warm-up", True, codec)
            self.client(
                "produce", server.bootstrap, "warm-up", self.scaled(100_000, 20_000), 1024, "all", "none"
            )
            server.offload_all("warm-up")
            before = server.tier_bytes()
            self.create(server, "tiered", True, codec)
            self.measure(
                "produce and seal 1 KiB none",
                name,
                server,
                lambda: self.produce_and_seal(server, "tiered", records, "none"),
                tier,
            )
            self.rows.append(
                {
                    "case": "bytes in the tier, 1 KiB none",
                    "system": name,
                    "run": self.run,
                    "raw_bytes": records * 1024,
                    "tier_bytes": server.tier_bytes() - before,
                }
            )
            server.restart()
            self.measure(
                "first record at a cold offset, after a restart",
                name,
                server,
                lambda: self.client("first", server.bootstrap, "tiered", TOPIC_PARTITIONS, 8),
                tier,
            )
            for place in ("cold", "again"):
                self.measure(
                    f"replay from the tier, {place}",
                    name,
                    server,
                    lambda: self.client("consume", server.bootstrap, "tiered", records),
                    tier,
                )
            for _ in range(2):  # the replay has warmed code and metadata; offsets are chosen anew
                self.measure(
                    "first record at a cold offset, warm",
                    name,
                    server,
                    lambda: self.client("first", server.bootstrap, "tiered", TOPIC_PARTITIONS, 8),
                    tier,
                )
            if self.run == 0:  # 10 GB in all, once: what stays in memory
                for _ in range(self.scaled(8, 1)):
                    self.client("consume", server.bootstrap, "tiered", records)
                self.rows.append(
                    {
                        "case": "memory after 10 GB of replay",
                        "system": name,
                        "run": self.run,
                        "rss_mib": server.process.memory()["VmRSS"],
                    }
                )
            before = server.tier_bytes()
            self.create(server, "tiered-zstd", True, codec)
            self.client("produce", server.bootstrap, "tiered-zstd", records // 2, 1024, "all", "zstd")
            server.offload_all("tiered-zstd")
            self.rows.append(
                {
                    "case": "bytes in the tier, zstd producer",
                    "system": name,
                    "run": self.run,
                    "raw_bytes": records // 2 * 1024,
                    "tier_bytes": server.tier_bytes() - before,
                }
            )
            if self.run == 0:  # longer than Highwater puts tier work off: once
                self.create(server, "longer", True, codec)
                self.measure(
                    "five times as long: produce and seal 1 KiB none",
                    name,
                    server,
                    lambda: self.produce_and_seal(server, "longer", 5 * records, "none"),
                    tier,
                )

        self.each(TIER, body)

    def produce_and_seal(self, server, topic, records, codec):
        row = self.client("produce", server.bootstrap, topic, records, 1024, "all", codec)
        begun = time.monotonic()
        server.offload_all(topic)
        row["seconds_until_all_is_in_the_tier"] = row["seconds"] + time.monotonic() - begun
        return row

    def start(self):
        def ready(server):
            return {"ready_s": server.ready_seconds}

        def body(name, server, _, __):
            self.measure("start to ready, empty", name, server, lambda: ready(server))
            time.sleep(self.scaled(10, 2))
            seconds = self.scaled(20, 3)

            def idle():
                before = server.process.cpu()
                time.sleep(seconds)
                return {
                    "idle_cores_pct": (server.process.cpu() - before) / seconds * 100,
                    "rss_mib": server.process.memory()["VmRSS"],
                }

            self.measure("idle", name, server, idle)
            for n in range(10):
                self.create(server, f"many-{n}", partitions=self.scaled(100, 10))
            self.client("produce", server.bootstrap, "many-0", 20_000, 1024, "all", "none")
            server.restart()
            self.measure("start to ready, 1,000 partitions", name, server, lambda: ready(server))

        self.each(PLAIN, body)


# --- command line ---------------------------------------------------------------------------------------------


def about(options, program):
    """What the results were made with, for the report."""
    cpu = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, cwd=HERE
    ).stdout.strip()
    return {
        "cores": os.cpu_count(),
        "cpu": cpu,
        "kernel": platform.release(),
        "java": servers.newest_java()[0],
        "kafka": "4.3.1",
        "revision": revision,
        "quick": options.quick,
        "runs": options.runs,
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join([program, *sys.argv[1:]]),
    }


def run(options):
    groups = options.only.split(",") if options.only else ["plain", "tier", "start"]
    bench = Bench(options)
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    made_with = about(options, "bench/compare.py")
    try:
        for bench.run in range(options.runs):
            for group in groups:
                print(f"run {bench.run + 1} of {options.runs}: {group}", flush=True)
                getattr(bench, group)()
                out.write_text(json.dumps({"about": made_with, "rows": bench.rows}, indent=1))
    finally:
        shutil.rmtree(bench.work, ignore_errors=True)
    print(f"results: {out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument(
        "--quick", action="store_true", help="small loads: shows that it works, not how fast it is"
    )
    running.add_argument("--runs", type=int, default=3)
    running.add_argument("--only", help="groups, separated by commas")
    running.add_argument(
        "--systems",
        help="systems, separated by commas; a first word (kafka, highwater) takes all of its kind",
    )
    running.add_argument("--out", default="bench/results/latest.json")
    commands.add_parser("report").add_argument("file")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        import report

        report.write(json.loads(Path(options.file).read_text()), HERE / "README.md")


if __name__ == "__main__":
    main()
