"""Clusters of three on free loopback ports: Highwater's and Kafka's, with the same questions to ask of both.

Owns starting, waiting, killing, pausing and reviving nodes (by process id). Knows nothing of cases or results.
"""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import servers
from rawcluster import Connection
from servers import MIB, ROOT, Process, free_port, tail, wait_port

BROKERS = (1, 2, 3)
# Nodes that only coordinate, where the control plane stands apart from the brokers.
COORDINATORS = (4, 5, 6)
READY_S_MAX = 120


def config(replication="fetch", flush=False, tiered=False):
    """Topic settings that both systems take alike, but for the word that asks for raft."""
    out = {"min.insync.replicas": "2", "retention.ms": "-1"}
    out |= {"segment.bytes": str((16 if tiered else 1024) * MIB)}
    if replication == "raft":
        out["highwater.replication"] = "raft"
    if flush:
        out["flush.messages"] = "1"
    return out


class Cluster:
    """`processes` by node id; `kafka`: where clients find each broker. All of them run, or none."""

    def __init__(self, work):
        self.dir = Path(work) / self.name
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        self.processes, self.kafka = {}, {node: f"127.0.0.1:{free_port()}" for node in BROKERS}
        self.bootstrap = ",".join(self.kafka.values())

    def begin(self, nodes):
        """Starts these nodes together and waits for all of them."""
        try:
            for node in nodes:
                self.start(node)
            for node in nodes:
                self.wait_ready(node)
        except BaseException:
            self.stop()
            raise

    def brokers(self):
        return [self.processes[node] for node in BROKERS]

    def connection(self, node, seconds=30):
        return Connection(self.kafka[node], seconds)

    def strike(self, node, signal_number):
        os.kill(self.processes[node].pid, signal_number)

    def revive(self, node, signal_number):
        """After `strike` with this signal: goes on, or is started again."""
        if signal_number == signal.SIGSTOP:
            os.kill(self.processes[node].pid, signal.SIGCONT)
            return
        self.processes[node].child.wait()
        self.start(node)
        self.wait_ready(node)

    def wait_in_sync(self, topic, replicas=3, seconds_max=300):
        """Until every broker knows of a leader and so many replicas in sync of every partition; how long it took."""
        begun, lacking = time.monotonic(), list(BROKERS)
        while lacking:
            if time.monotonic() - begun > seconds_max:
                raise RuntimeError(f"{topic}: not in sync on nodes {lacking} after {seconds_max} s")
            known = self.connection(lacking[0]).partitions(topic)
            if known and all(p.leader >= 0 and len(p.isr) == replicas for p in known.values()):
                lacking.pop(0)
            else:
                time.sleep(0.02)
        return time.monotonic() - begun

    def create(self, topic, partitions, settings, replication_factor=3):
        self.connection(BROKERS[0], 150).create(topic, partitions, replication_factor, settings)

    def stop(self):
        for process in self.processes.values():
            if process.child.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.child.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.stop()


class Highwater(Cluster):
    """`tier`: a Minio, else a directory that all share. `apart`: the control plane is on three nodes of its own."""

    name = "highwater"

    def __init__(self, work, tier=None, apart=False):
        super().__init__(work)
        self.tier, self.apart = tier, apart
        self.binary = str(ROOT / "target" / "release" / "highwater")
        nodes = BROKERS + (COORDINATORS if apart else ())
        self.grpc = {node: f"127.0.0.1:{free_port()}" for node in nodes}
        self.http = {node: f"127.0.0.1:{free_port()}" for node in nodes}
        self.begin(nodes[::-1])  # coordinators first: brokers wait for them

    def start(self, node):
        members = COORDINATORS if self.apart else BROKERS
        roles = "broker,coordinator"
        if self.apart:
            roles = "broker" if node in BROKERS else "coordinator"
        flags = {
            "node-id": node,
            "roles": roles,
            "data-dir": self.dir / f"node-{node}",
            "kafka": self.kafka.get(node, "127.0.0.1:0"),
            "grpc": self.grpc[node],
            "http": self.http[node],
            "coordinators": ",".join(f"{m}={self.grpc[m]}" for m in members),
            "rack": f"rack-{node}",
            "default-replication-factor": 3,
            "log-format": "json",
            "object-store": f"s3://{self.tier.BUCKET}/hw" if self.tier else f"file://{self.dir / 'objects'}",
        }
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HIGHWATER_", "AWS_"))}
        if self.tier:
            flags["s3-endpoint"] = self.tier.endpoint
            env |= self.tier.env()
        command = [self.binary, "serve", *(f"--{name}={value}" for name, value in flags.items())]
        self.processes[node] = Process(f"node {node}", command, self.dir / f"node-{node}.log", env)

    def wait_ready(self, node):
        process, end = self.processes[node], time.monotonic() + READY_S_MAX
        while True:
            try:
                with urllib.request.urlopen(f"http://{self.http[node]}/readyz", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            if process.child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"node {node} is not ready; log: {process.log}\n{tail(process.log)}")
            time.sleep(0.01)

    def cli(self, node, *arguments):
        command = [self.binary, *arguments, "--grpc", self.grpc[node], "--output", "json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{arguments}: {done.stderr or done.stdout}")
        return json.loads(done.stdout)

    def controller(self):
        """Node that leads the control plane, asked of one that is there."""
        for node, process in self.processes.items():
            if node in BROKERS and process.child.poll() is None:
                return self.cli(node, "cluster", "status")["coordinator_leader"]
        raise RuntimeError("no node runs")


KAFKA_PROPERTIES = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{broker}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
broker.rack=rack-{node}
log.dirs={dir}/node-{node}
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
"""


class Kafka(Cluster):
    """Three KRaft nodes, each broker and controller; 1 GiB of heap each and the flags of Kafka's start script."""

    name = "kafka"

    def __init__(self, work):
        super().__init__(work)
        self.java = servers.newest_java()[1]
        self.classpath = str(ROOT / "target" / "kafka" / "lib" / "*")
        self.controllers = {node: f"127.0.0.1:{free_port()}" for node in BROKERS}
        for node in BROKERS:
            self.format(node)
        self.begin(BROKERS)

    def format(self, node):
        voters = ",".join(f"{n}@{address}" for n, address in self.controllers.items())
        properties = KAFKA_PROPERTIES.format(
            node=node,
            voters=voters,
            broker=self.kafka[node],
            controller=self.controllers[node],
            dir=self.dir,
        )
        (self.dir / f"node-{node}.properties").write_text(properties)
        command = [self.java, "-cp", self.classpath, "kafka.tools.StorageTool", "format", "-t"]
        command += ["AAAAAAAAAAAAAAAAAAAAAQ", "-c", str(self.dir / f"node-{node}.properties")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"kafka storage format: {done.stdout}")

    def start(self, node):
        command = [self.java, *servers.KAFKA_JVM, "-cp", self.classpath]
        command += ["kafka.Kafka", str(self.dir / f"node-{node}.properties")]
        self.processes[node] = Process(f"kafka {node}", command, self.dir / f"node-{node}.log")

    def wait_ready(self, node):
        """Until it serves clients and its controller knows three brokers, which a topic of three replicas needs."""
        process, end = self.processes[node], time.monotonic() + READY_S_MAX
        port = int(self.kafka[node].rsplit(":", 1)[1])
        wait_port(port, process.child, READY_S_MAX, process.name, process.log)
        while time.monotonic() < end:
            try:
                if len(self.connection(node, 2).nodes()) == len(BROKERS):
                    return
            except (OSError, AssertionError):
                pass
            time.sleep(0.02)
        raise RuntimeError(f"{process.name} is not ready; log: {process.log}\n{tail(process.log)}")

    def controller(self):
        for node, process in self.processes.items():
            if process.child.poll() is None:
                return self.connection(node, 5).quorum_leader()
        raise RuntimeError("no node runs")
