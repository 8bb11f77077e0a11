#!/usr/bin/env python3
"""Consumer groups and transactions, Apache Kafka and Highwater side by side: one node of each, same clients, taking turns.

    groups.py run [--quick] [--runs N] [--only GROUP,...] [--systems NAME,...] [--out FILE]
    groups.py report FILE           writes the table into bench/README.md

Groups: rebalance (groups over 1,000 partitions), commits, transactions, reload (a million offsets after a restart).
Load comes from Java's client (GroupLoad.java), librdkafka (client.py) and bare sockets (src/bin/coordinator_load), the last
where a client library would use more of the two cores than the broker. CPU is the broker's, from /proc; it has no children.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402
import servers  # noqa: E402

# Alike on both. Without the delay, what a group waits for are heartbeats and the broker; at the defaults (3 s, 5 s) the
# figures would be these waits.
REBALANCE_DELAY_MS = 0
HEARTBEAT_MS = 500
# Kafka's default, and Highwater's.
INTERNAL_PARTITIONS = 50
CLIENT_S_MAX = 600
PROTOCOLS = {
    "classic": "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
    "KIP-848": "consumer",
}
GROUPS = ("rebalance", "commits", "transactions", "reload")
CONSUMERS = 32
OFFSETS_PER_COMMIT = 100


class Kafka(servers.Kafka):
    more_properties = (
        f"offsets.topic.num.partitions={INTERNAL_PARTITIONS}\n"
        f"transaction.state.log.num.partitions={INTERNAL_PARTITIONS}\n"
        f"group.initial.rebalance.delay.ms={REBALANCE_DELAY_MS}\n"
        f"group.consumer.min.heartbeat.interval.ms={HEARTBEAT_MS}\n"
        f"group.consumer.heartbeat.interval.ms={HEARTBEAT_MS}\n"
    )


class Highwater(servers.Highwater):
    FLAGS = (
        ("--offsets-topic-num-partitions", INTERNAL_PARTITIONS),
        ("--transaction-state-topic-num-partitions", INTERNAL_PARTITIONS),
        ("--group-initial-rebalance-delay-ms", f"{REBALANCE_DELAY_MS}ms"),
        ("--group-consumer-heartbeat-interval-ms", f"{HEARTBEAT_MS}ms"),
    )

    def __init__(self, work, **options):
        super().__init__(work, flags=[str(part) for flag in self.FLAGS for part in flag], **options)


SYSTEMS = {"kafka": (Kafka, False, None), "highwater": (Highwater, False, None)}


class GroupBench(compare.Bench):
    def __init__(self, options):
        super().__init__(options)
        _, self.java = servers.newest_java()
        jars = servers.ROOT / "target/kafka/lib/*"
        classes = self.work / "classes"
        javac = Path(self.java).with_name("javac")
        compiler = str(javac) if javac.exists() else "javac"
        source = str(HERE / "GroupLoad.java")
        subprocess.run([compiler, "-cp", str(jars), "-d", str(classes), source], check=True, timeout=CLIENT_S_MAX)
        self.classpath = f"{classes}:{jars}"

    # --- clients --------------------------------------------------------------------------------------------

    def load(self, *command):
        """Runs a client to its end; its JSON, and its CPU."""
        begun = os.times()
        command = [str(word) for word in command]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=CLIENT_S_MAX
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command[-9:])}: {done.stderr[-1500:]}")
        ended = os.times()
        used = ended.children_user + ended.children_system - begun.children_user - begun.children_system
        return json.loads(done.stdout.splitlines()[-1]) | {"client_cpu_s": used}

    def bare(self, command, server, *arguments):
        binary = servers.ROOT / "target/release/coordinator_load"
        return self.load(binary, command, server.bootstrap, *arguments)

    def java_load(self, command, server, *arguments):
        heap = ("-Xms1g", "-Xmx1g", "-XX:+UseSerialGC")
        return self.load(self.java, *heap, "-cp", self.classpath, "GroupLoad", command, server.bootstrap, *arguments)

    def librdkafka(self, command, server, *arguments):
        return self.load(sys.executable, HERE / "client.py", command, server.bootstrap, *arguments)

    def case(self, case, name, server, body):
        """`measure`, and the CPU of one operation."""

        def with_cpu():
            before = server.process.cpu()
            row = body()
            if row.get("operations"):
                row["server_cpu_us"] = (server.process.cpu() - before) / row["operations"] * 1e6
            return row

        self.measure(case, name, server, with_cpu)

    # --- groups ---------------------------------------------------------------------------------------------

    def rebalance(self):
        partitions, rounds = self.scaled(1_000, 60), self.scaled(4, 1)

        def body(name, server, _, __):
            self.create(server, "rebalance", partitions=partitions)

            def group(members, protocol):
                arguments = ("rebalance", partitions, members, PROTOCOLS[protocol], HEARTBEAT_MS, rounds)
                row = self.java_load("rebalance", server, *arguments)
                if row["overlaps"]:
                    raise RuntimeError(f"{name}: {row['overlaps']} partitions had two owners")
                return row

            for protocol in PROTOCOLS:  # warms up
                group(self.scaled(5, 2), protocol)
            for protocol in PROTOCOLS:
                for members in self.scaled((1, 10, 100), (1, 4)):
                    of = "1 member" if members == 1 else f"{members} members"
                    case = f"{protocol} group of {of}, {partitions:,} partitions"
                    self.case(case, name, server, lambda m=members, p=protocol: group(m, p))

        self.each(SYSTEMS, body)

    def commits(self):
        seconds = self.scaled(5, 2)
        # What is said of it, consumers, groups, offsets per commit.
        cases = (
            ("1 offset, 1 consumer", 1, 1, 1),
            (f"1 offset, {CONSUMERS} consumers of as many groups", CONSUMERS, CONSUMERS, 1),
            (f"1 offset, {CONSUMERS} consumers of one group", CONSUMERS, 1, 1),
            (f"{OFFSETS_PER_COMMIT} offsets, {CONSUMERS} consumers of as many groups", CONSUMERS, CONSUMERS, OFFSETS_PER_COMMIT),
        )

        def body(name, server, _, __):
            self.create(server, "commits", partitions=OFFSETS_PER_COMMIT)
            self.bare("commits", server, "commits", CONSUMERS, CONSUMERS, 1, seconds)  # warms up
            for case, *load in cases:
                run = lambda load=load: self.bare("commits", server, "commits", *load, seconds)  # noqa: E731
                self.case(f"commit {case}", name, server, run)

        self.each(SYSTEMS, body)

    def transactions(self):
        seconds = self.scaled(4, 2)

        def body(name, server, _, __):
            self.create(server, "transactions", partitions=CONSUMERS)
            # The client, its load, producers.
            cases = (
                ("librdkafka", self.librdkafka, 1),
                ("Java", self.java_load, 1),
                ("Java", self.java_load, 8),
                ("bare sockets", self.bare, 1),
                ("bare sockets", self.bare, CONSUMERS),
            )
            self.bare("transactions", server, "transactions", CONSUMERS, 1, seconds)  # warms up
            for client, load, producers in cases:
                for records in (1, 100):
                    of = "1 record" if records == 1 else f"{records} records"
                    by = "1 producer" if producers == 1 else f"{producers} producers"
                    arguments = ("transactions", server, "transactions", producers, records, seconds)
                    run = lambda load=load, arguments=arguments: load(*arguments)  # noqa: E731
                    self.case(f"transactions of {of}, {by}, {client}", name, server, run)

        self.each(SYSTEMS, body)

    def reload(self):
        groups, offsets = self.scaled(10_000, 200), OFFSETS_PER_COMMIT

        def body(name, server, _, __):
            self.create(server, "reload", partitions=offsets)
            load = ("reload", groups, offsets)
            self.case(f"fill: {groups * offsets:,} offsets", name, server, lambda: self.bare("fill", server, *load))
            self.record_reload(f"reload of {groups * offsets:,} offsets", name, server, load)

        self.each(SYSTEMS, body)

    def record_reload(self, case, name, server, load):
        server.process.stop()
        busy, begun = servers.busy_seconds(), time.monotonic()
        binary = servers.ROOT / "target/release/coordinator_load"
        command = [str(word) for word in (binary, "ask", server.bootstrap, *load)]
        asking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            server.start()
            answered, said = asking.communicate(timeout=CLIENT_S_MAX)
        finally:
            asking.kill()
            asking.wait()
        used, took = server.process.cpu(), time.monotonic() - begun
        if asking.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {said[-800:]}")
        row = json.loads(answered) | {"case": case, "system": name, "run": self.run}
        row |= {"server_cpu_s": used, "memory": server.process.memory()}
        row["strangers_cores"] = (servers.busy_seconds() - busy - used) / took
        row["rss_mib"] = row["memory"]["VmRSS"]
        row["read_s"] = self.bare("check", server, *load)["seconds"]
        self.rows.append(row)
        print(f"    {case:<34} {name:<22} {json.dumps(row)}", flush=True)


# --- command line ---------------------------------------------------------------------------------------------


def run(options):
    groups = options.only.split(",") if options.only else GROUPS
    bench, out, failed = GroupBench(options), Path(options.out), []
    out.parent.mkdir(parents=True, exist_ok=True)
    made_with = compare.about(options, "bench/groups.py")
    try:
        for bench.run in range(options.runs):
            for group in groups:
                print(f"run {bench.run + 1} of {options.runs}: {group}", flush=True)
                begun = time.monotonic()
                try:
                    getattr(bench, group)()
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # the other groups are worth having
                    print(f"    {group} failed: {error}", flush=True)
                    failed.append(group)
                print(f"    {group}: {time.monotonic() - begun:.0f} s", flush=True)
                out.write_text(json.dumps({"about": made_with, "rows": bench.rows}, indent=1))
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
    running.add_argument("--only", help=f"groups, separated by commas: {', '.join(GROUPS)}")
    running.add_argument("--systems", help="systems, separated by commas: kafka, highwater")
    running.add_argument("--out", default="bench/results/groups.json")
    commands.add_parser("report").add_argument("file")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        import groups_report

        groups_report.write(json.loads(Path(options.file).read_text()), HERE / "README.md")


if __name__ == "__main__":
    main()
