#!/usr/bin/env python3
"""Three Highwater nodes and three Kafka nodes: failover, replicated produce, idle cost, moves, metadata.

    cluster.py run [--quick] [--runs N] [--only GROUP,...] [--systems NAME,...] [--out FILE]
    cluster.py report FILE          writes the tables into bench/README.md

Groups: failover (a leader of 1 partition and of 1,000 is killed or paused), produce, idle, move, metadata,
control. Systems: kafka, highwater-fetch, highwater-raft; in produce also kafka-flush, whose brokers sync before
they answer, as raft topics do. Only `produce` takes part in every run; the others repeat within themselves.
"""

import argparse
import json
import shutil
import signal
import statistics
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402
import servers  # noqa: E402
import trio  # noqa: E402
from outage import Outage  # noqa: E402
from rawcluster import Refused  # noqa: E402
from trio import BROKERS  # noqa: E402

# name: (cluster, replication, sync before the acknowledgement)
SYSTEMS = {
    "kafka": (trio.Kafka, "fetch", False),
    "highwater-fetch": (trio.Highwater, "fetch", False),
    "kafka-flush": (trio.Kafka, "fetch", True),
    "highwater-raft": (trio.Highwater, "raft", False),
}
FAULTS = {"kill -9": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
OUTAGE_S_MAX = 120
# Before a strike: leaders are being moved, and voters of raft groups count as in sync however far they are.
SETTLE_S = 3
# Until a leader is where a strike is wanted.
SHAKES_MAX = 10
PRODUCE_PARTITIONS = 6
GROUPS = ("failover", "produce", "idle", "move", "metadata", "control")
PARTITIONS_PER_TOPIC = 500


class ClusterBench(compare.Bench):
    def each(self, wanted, body):
        """`body` on a fresh cluster of each of these systems that was asked for and that exists."""
        for name in self.systems({name: SYSTEMS[name] for name in wanted}):
            kind, replication, flush = SYSTEMS[name]
            settings = trio.config(replication, flush)
            with self.cluster(kind) as cluster:
                try:
                    cluster.create("probe", 1, settings)
                except Refused as refused:
                    print(f"    {name}: skipped, {refused}", flush=True)
                    continue
                body(name, cluster, settings)

    @contextmanager
    def cluster(self, kind, **options):
        work = self.work / "cluster"
        cluster = kind(work, **options)
        try:
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(work)

    def record(self, case, name, row):
        self.rows.append(row | {"case": case, "system": name, "run": self.run})
        shown = {k: round(v, 3) for k, v in row.items() if isinstance(v, (int, float))}
        print(f"    {case:<44} {name:<16} {json.dumps(shown)}", flush=True)

    def measure(self, case, name, cluster, body):
        """Runs `body`, which returns a dict; adds the CPU of the three brokers together."""
        before, busy = [p.cpu() for p in cluster.brokers()], servers.busy_seconds()
        begun = time.monotonic()
        row = body()
        used = sum(p.cpu() - b for p, b in zip(cluster.brokers(), before))
        if row.get("bytes"):
            row["server_cpu_s_per_gb"] = used / (row["bytes"] / 1e9)
        others = servers.busy_seconds() - busy - used - row.get("client_cpu_s", 0)
        row["strangers_cores"] = others / (time.monotonic() - begun)
        self.record(case, name, row)

    # --- groups ---------------------------------------------------------------------------------------------

    def failover(self):
        many = self.scaled(1_000, 30)
        # Affected partitions that are looked at (all, or one of a few), partitions, strikes by kill and by pause.
        cases = (("1 partition", 1, 6, self.scaled(10, 1), self.scaled(4, 1)),)
        cases += ((f"{many:,} partitions", many, many, self.scaled(3, 1), self.scaled(2, 1)),)

        def body(name, cluster, settings):
            for size, affected, partitions, kills, pauses in cases:
                topic = f"failover-{affected}"
                cluster.create(topic, partitions, settings)
                for fault, count in (("kill -9", kills), ("SIGSTOP", pauses)):
                    for controls, whom in ((False, "a leader"), (True, "a leader that leads the control plane too")):
                        out = [self.strike(cluster, topic, affected, fault, controls) for _ in range(count)]
                        self.record(f"{fault} of {whom}, {size}", name, outages(out))

        self.each(("kafka", "highwater-fetch", "highwater-raft"), body)

    def strike(self, cluster, topic, affected_max, fault, controls):
        """Takes a node away that leads partitions of the topic, and brings it back when those are written again."""
        victim, leaders = self.victim(cluster, topic, controls)
        affected = [number for number, leader in enumerate(leaders) if leader == victim][:affected_max]
        outage = Outage(cluster.kafka.values(), topic, affected)
        outage.begin()
        outage.strike(lambda: cluster.strike(victim, FAULTS[fault]))
        seconds = outage.end(OUTAGE_S_MAX)
        cluster.revive(victim, FAULTS[fault])
        return {"seconds": seconds, "in_sync_s": cluster.wait_in_sync(topic)}

    def victim(self, cluster, topic, controls):
        """A node that leads partitions, and the control plane or not, as wanted; and who leads each partition."""
        for _ in range(SHAKES_MAX):
            cluster.wait_in_sync(topic)
            cluster.connection(BROKERS[0], 60).elect_preferred_leaders()
            time.sleep(SETTLE_S)
            leaders = [p.leader for p in cluster.connection(BROKERS[0]).partitions(topic).values()]
            controller = cluster.controller()
            fitting = [node for node in BROKERS if node in leaders and (node == controller) == controls]
            if fitting:
                return max(fitting, key=leaders.count), leaders
            # Raft groups choose for themselves, and may all have chosen the same node: they choose again.
            first = max(BROKERS, key=leaders.count)
            cluster.strike(first, signal.SIGKILL)
            time.sleep(SETTLE_S)
            cluster.revive(first, signal.SIGKILL)
        raise RuntimeError(f"{topic}: {controller} controls, {sorted(set(leaders))} lead")

    def produce(self):
        seconds = self.scaled(20, 3)

        def body(name, cluster, settings):
            is_synced = name in ("kafka-flush", "highwater-raft")
            kind = "synced before the ack" if is_synced else "page cache"
            full = {1024: 200_000, 100: 500_000} if is_synced else {1024: 1_000_000, 100: 3_000_000}

            def load(topic, *arguments):
                return lambda: self.client(arguments[0], cluster.bootstrap, topic, *arguments[1:])

            for topic in ("warm-up", "latency", *(f"produce-{size}" for size in full)):
                cluster.create(topic, PRODUCE_PARTITIONS, settings)
                cluster.wait_in_sync(topic)
            load("warm-up", "produce", self.scaled(100_000, 5_000), 1024, "all", "none")()
            for size, records in full.items():
                count = self.scaled(records, records // 25)
                case = load(f"produce-{size}", "produce", count, size, "all", "none")
                self.measure(f"produce {size} B, {kind}", name, cluster, case)
            for rate, linger in ((10_000, 5), (1_000, 0)):
                case = load("latency", "latency", seconds, rate, linger, "all")
                self.measure(f"latency {rate}/s linger {linger}, {kind}", name, cluster, case)

        self.each(SYSTEMS, body)

    def idle(self):
        wanted = (
            ("highwater-fetch", 1_000),
            ("highwater-fetch", 5_000),
            ("highwater-raft", 300),
            ("highwater-raft", 1_000),
            ("kafka", 1_000),
        )
        for name, full in wanted:
            count = self.scaled(full, full // 50)
            self.each((name,), lambda *running, count=count: self.idle_with(count, *running))

    def idle_with(self, count, name, cluster, settings):
        seconds = self.scaled(30, 3)
        time.sleep(self.scaled(10, 1))
        empty = [p.memory()["RssAnon"] for p in cluster.brokers()]
        begun = time.monotonic()
        sizes = [min(PARTITIONS_PER_TOPIC, count - at) for at in range(0, count, PARTITIONS_PER_TOPIC)]
        for number, size in enumerate(sizes):
            cluster.create(f"idle-{number}", size, settings)
        created = time.monotonic() - begun
        for number, size in enumerate(sizes):
            cluster.wait_in_sync(f"idle-{number}")
            outage = Outage(cluster.kafka.values(), f"idle-{number}", range(size))
            outage.begin(120)  # one record each: a partition that was never written costs less
            outage.close()
        row = {"created_s": created, "written_s": time.monotonic() - begun}
        time.sleep(self.scaled(20, 2))
        before = [p.cpu() for p in cluster.brokers()]
        time.sleep(seconds)
        used = [(p.cpu() - b) / seconds * 100 for p, b in zip(cluster.brokers(), before)]
        grown = [p.memory()["RssAnon"] - e for p, e in zip(cluster.brokers(), empty)]
        row |= {"idle_cores_pct": max(used), "kib_per_replica": max(grown) * 1024 / count}
        row["rss_mib"] = max(p.memory()["VmRSS"] for p in cluster.brokers())
        self.record(f"idle, {count:,} partitions", name, row)

    def move(self):
        """Nodes 1 and 2 have the partition; node 3 gets it, several times."""
        if not self.systems({"highwater-fetch": None}):
            return
        mib = {"64 MiB in the tier": self.scaled(64, 4), "1 GiB in the tier": self.scaled(1024, 16)}
        store = servers.Minio(self.work / "store")
        try:
            with self.cluster(trio.Highwater, tier=store) as cluster:
                for size, amount in mib.items():
                    took = self.moves(cluster, f"move-{amount}", amount * 1024)
                    row = {"median_s": statistics.median(took), "max_s": max(took), "all_s": took}
                    self.record(f"add a replica, {size}", "highwater-fetch", row)
        finally:
            store.stop()
            shutil.rmtree(self.work / "store")

    def moves(self, cluster, topic, records):
        cluster.connection(1).create(topic, 1, 2, trio.config(tiered=True), replicas=[1, 2])
        cluster.wait_in_sync(topic, 2)
        self.client("produce", cluster.bootstrap, topic, records, 1024, "all", "none")
        cluster.cli(1, "tier", "offload", topic, "--evict")
        self.client("produce", cluster.bootstrap, topic, 1_000, 1024, "all", "none")  # the hot tail
        took = []
        for _ in range(self.scaled(5, 1)):
            begun = time.monotonic()
            cluster.cli(1, "cluster", "move", topic, "--replicas", "1,2,3")
            cluster.wait_in_sync(topic, 3)
            took.append(time.monotonic() - begun)
            cluster.cli(1, "cluster", "move", topic, "--replicas", "1,2")
            cluster.wait_in_sync(topic, 2)
        return took

    def metadata(self):
        many = self.scaled(1_000, 30)

        def body(name, cluster, settings):
            self.record("create a topic", name, self.creations(cluster, "few", settings))
            cluster.create("many", many, settings)
            cluster.wait_in_sync("many")
            row = self.creations(cluster, "beside", settings)
            self.record(f"create a topic beside {many:,} partitions", name, row)

        self.each(("kafka", "highwater-fetch"), body)

    def creations(self, cluster, prefix, settings):
        """Topics of one partition, one after another, by turns of the nodes: when the creator has its answer,
        and when the last node tells its clients who leads."""
        answered, seen = [], []
        connections = {node: cluster.connection(node) for node in BROKERS}
        for n in range(self.scaled(100, 10)):
            topic, known = f"{prefix}-{n}", []
            opened = [cluster.connection(node) for node in BROKERS]
            watchers = [threading.Thread(target=watch, args=(one, topic, known)) for one in opened]
            begun = time.monotonic()
            for watcher in watchers:
                watcher.start()
            connections[BROKERS[n % 3]].create(topic, 1, 3, settings)
            answered.append(time.monotonic() - begun)
            for watcher in watchers:
                watcher.join()
            seen.append(max(known) - begun)
        row = {f"answered_{k}": v for k, v in milliseconds(answered).items()}
        return row | {f"seen_{k}": v for k, v in milliseconds(seen).items()}

    def control(self):
        """Three brokers and a control plane of three other nodes, whose leader is killed while clients produce."""
        if not self.systems({"highwater-fetch": None}):
            return
        with self.cluster(trio.Highwater, apart=True) as cluster:
            cluster.create("control", PRODUCE_PARTITIONS, trio.config())
            cluster.wait_in_sync("control")
            for kills in (False, True):
                worst = [self.pause(cluster, kills) for _ in range(self.scaled(5, 1))]
                case = "load, leader of the control plane killed" if kills else "load, nobody killed"
                row = {"pause_median_ms": statistics.median(worst), "pause_max_ms": max(worst)}
                self.record(case, "highwater-fetch", row)

    def pause(self, cluster, kills):
        """Longest time that a record waited for its acknowledgement, of 1,000 a second."""
        seconds, victim = self.scaled(15, 6), cluster.controller()
        strike = threading.Timer(seconds / 2, lambda: cluster.strike(victim, signal.SIGKILL))
        if kills:
            strike.start()
        row = self.client("latency", cluster.bootstrap, "control", seconds, 1_000, 0, "all")
        if kills:
            strike.join()
            cluster.revive(victim, signal.SIGKILL)
            time.sleep(2)
        return row["max_ms"]


def watch(connection, topic, known):
    while True:
        found = connection.partitions(topic)
        if found and not found[0].error and found[0].leader >= 0:
            known.append(time.monotonic())
            return
        time.sleep(0.001)


def at(values, quantile):
    return values[min(int(len(values) * quantile), len(values) - 1)]


def milliseconds(values):
    values = sorted(values)
    return {"p50_ms": at(values, 0.5) * 1e3, "p99_ms": at(values, 0.99) * 1e3, "max_ms": values[-1] * 1e3}


def outages(strikes):
    """Over all partitions of all strikes together."""
    seconds = sorted(s for strike in strikes for s in strike["seconds"])
    return {
        "strikes": len(strikes),
        "out_p50_s": at(seconds, 0.5),
        "out_p99_s": at(seconds, 0.99),
        "out_max_s": seconds[-1],
        "in_sync_s": max(strike["in_sync_s"] for strike in strikes),
        "slowest_of_each": [strike["seconds"][-1] for strike in strikes],
    }


# --- command line ---------------------------------------------------------------------------------------------


def run(options):
    groups = options.only.split(",") if options.only else GROUPS
    bench, out, failed = ClusterBench(options), Path(options.out), []
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        for bench.run in range(options.runs):
            for group in groups:
                if bench.run and group != "produce":
                    continue
                print(f"run {bench.run + 1} of {options.runs}: {group}", flush=True)
                try:
                    getattr(bench, group)()
                except (RuntimeError, OSError, Refused) as error:  # an hour's other groups are worth having
                    print(f"    {group} failed: {error}", flush=True)
                    failed.append(group)
                about = compare.about(options, "bench/cluster.py")
                out.write_text(json.dumps({"about": about, "rows": bench.rows}, indent=1))
    finally:
        shutil.rmtree(bench.work, ignore_errors=True)
    print(f"results: {out}")
    if failed:
        sys.exit(f"incomplete: {', '.join(failed)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--quick", action="store_true", help="shows that it works, not how fast it is")
    running.add_argument("--runs", type=int, default=3)
    running.add_argument("--only", help="groups, separated by commas")
    running.add_argument("--systems", help="separated by commas; kafka or highwater takes all of its kind")
    running.add_argument("--out", default="bench/results/cluster.json")
    commands.add_parser("report").add_argument("file")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        import cluster_report

        cluster_report.write(json.loads(Path(options.file).read_text()), HERE / "README.md")


if __name__ == "__main__":
    main()
