"""The processes that the comparison measures: Apache Kafka, Highwater and MinIO, each on free loopback ports.

Owns starting, waiting, stopping (by process id) and reading /proc. Knows nothing of cases or results.
"""

import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, process, seconds, name, log):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}; log: {log}\n{tail(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"{name} did not listen within {seconds} s; log: {log}\n{tail(log)}")


def tail(path, lines=8):
    try:
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def cpu_seconds(pid):
    """User and system time of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mib(pid):
    found = re.findall(
        r"^(VmRSS|VmHWM|RssAnon|RssFile):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M
    )
    return {name: round(int(kib) / 1024, 1) for name, kib in found}


def busy_seconds():
    """CPU time of the whole machine so far, without idle and iowait: tells how much strangers used."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICKS


class Process:
    """A child with its log file. `stop` is polite first; both ways wait for the end."""

    def __init__(self, name, command, log, env=None):
        self.name, self.log = name, str(log)
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
            )
        self.pid = self.child.pid

    def cpu(self):
        return cpu_seconds(self.pid)

    def memory(self):
        return memory_mib(self.pid)

    def stop(self, seconds=30):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.child.returncode

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


class Minio:
    USER, PASSWORD, BUCKET = "highwater", "highwater-secret", "tier"

    def __init__(self, work):
        self.dir = Path(work) / "minio"
        (self.dir / "data" / self.BUCKET).mkdir(parents=True)
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        env = dict(
            os.environ,
            MINIO_ROOT_USER=self.USER,
            MINIO_ROOT_PASSWORD=self.PASSWORD,
            MINIO_BROWSER="off",
            CI="1",
            MINIO_UPDATE="off",
        )
        binary = ROOT / "target" / "tools" / "minio"
        log = self.dir / "minio.log"
        self.process = Process(
            "minio",
            [str(binary), "server", "--address", f"127.0.0.1:{port}", str(self.dir / "data")],
            log,
            env,
        )
        wait_port(port, self.process.child, 60, "minio", log)
        time.sleep(1.0)  # it listens before it serves

    def env(self):
        return {
            "AWS_ACCESS_KEY_ID": self.USER,
            "AWS_SECRET_ACCESS_KEY": self.PASSWORD,
            "AWS_REGION": "us-east-1",
        }

    def object_bytes(self):
        """Bytes of the bucket's files on MinIO's disk (data plus its own metadata, about 1 KiB an object)."""
        return tree_bytes(self.dir / "data" / self.BUCKET)

    def stop(self):
        self.process.stop()


def tree_bytes(path):
    return sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file())


class Highwater:
    """`tier`: None (embedded store in the data directory) or a Minio."""

    name = "highwater"

    def __init__(self, work, tier=None, keep=False, env=None, flags=()):
        self.dir = Path(work) / "highwater"
        if not keep:
            shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.tier, self.extra_env, self.flags = tier, dict(env or {}), list(flags)
        self.binary = str(ROOT / "target" / "release" / "highwater")
        self.ports = [free_port() for _ in range(3)]
        self.bootstrap = f"127.0.0.1:{self.ports[0]}"
        self.log = self.dir / "serve.log"
        self.start()

    def start(self):
        kafka, grpc, http = (f"127.0.0.1:{p}" for p in self.ports)
        command = [
            self.binary,
            "serve",
            "--data-dir",
            str(self.dir / "data"),
            "--kafka",
            kafka,
            "--grpc",
            grpc,
            "--http",
            http,
            "--log-format",
            "json",
            *self.flags,
        ]
        env = {
            k: v for k, v in os.environ.items() if not k.startswith(("HIGHWATER_", "AWS_"))
        } | self.extra_env
        if self.tier:
            command += ["--object-store", f"s3://{self.tier.BUCKET}/hw", "--s3-endpoint", self.tier.endpoint]
            env |= self.tier.env()
        else:
            command += ["--object-store", f"file://{self.dir / 'objects'}"]
        offset = self.log.stat().st_size if self.log.exists() else 0
        started = time.monotonic()
        self.process = Process("highwater", command, self.log, env)
        while True:
            with open(self.log, "rb") as f:
                f.seek(offset)
                if b'"ready"' in f.read():
                    break
            if self.process.child.poll() is not None or time.monotonic() - started > 60:
                raise RuntimeError(f"highwater is not ready; log: {self.log}\n{tail(self.log)}")
            time.sleep(0.002)
        self.ready_seconds = time.monotonic() - started

    def restart(self):
        self.process.stop()
        self.start()

    def topic_config(self, tiered, codec=None):
        config = {"segment.bytes": str(16 * MIB), "retention.ms": "-1"}
        if not tiered:
            config = {"segment.bytes": str(1 << 30), "retention.ms": "-1", "remote.storage.enable": "false"}
        if tiered and codec:
            config["highwater.parquet.compression"] = codec
        return config

    def local_log_bytes(self):
        return sum(p.stat().st_size for p in (self.dir / "data" / "topics").rglob("*.log"))

    def tier_bytes(self):
        return self.tier.object_bytes() if self.tier else tree_bytes(self.dir / "objects")

    def offload_all(self, topic):
        """Seals, publishes and drops the local copies of what is there now."""
        done = subprocess.run(
            [self.binary, "tier", "offload", topic, "--evict", "--grpc", f"127.0.0.1:{self.ports[1]}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"tier offload: {done.stdout}")

    def stop(self):
        self.process.stop()


def newest_java():
    """The newest JDK on the machine: Kafka's figures should not suffer from an old one."""
    found = []
    for java in glob.glob("/usr/lib/jvm/*/bin/java") + (
        [shutil.which("java")] if shutil.which("java") else []
    ):
        text = subprocess.run([java, "-version"], stderr=subprocess.PIPE, text=True).stderr
        match = re.search(r'version "(\d+)', text)
        if match:
            found.append((int(match.group(1)), java))
    if not found or max(found)[0] < 17:
        raise RuntimeError("Kafka needs Java 17 or newer")
    return max(found)


# What Kafka's own start script passes, and the heap.
KAFKA_JVM = (
    "-server -Xms1g -Xmx1g -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 "
    "-XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true"
).split()

KAFKA_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={dir}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""

KAFKA_TIER = """
remote.log.storage.system.enable=true
remote.log.storage.manager.class.name=org.apache.kafka.server.log.remote.storage.LocalTieredStorage
remote.log.metadata.manager.listener.name=PLAINTEXT
rsm.config.dir={dir}/tier
rsm.config.delete.on.close=false
rlmm.config.remote.log.metadata.topic.replication.factor=1
rlmm.config.remote.log.metadata.topic.min.isr=1
rlmm.config.remote.log.metadata.topic.num.partitions=4
remote.log.manager.task.interval.ms=1000
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
"""


class Kafka:
    """One KRaft node, heap 1 GiB, G1, the flags of Kafka's own start script. `tier`: LocalTieredStorage or none."""

    name = "kafka"
    more_properties = ""

    def __init__(self, work, tier=None, keep=False, env=None, flags=()):
        self.dir = Path(work) / "kafka"
        if not keep:
            shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.tier = tier
        self.version, self.java = newest_java()
        broker, controller = free_port(), free_port()
        self.port, self.bootstrap = broker, f"127.0.0.1:{broker}"
        text = KAFKA_PROPERTIES.format(broker=broker, controller=controller, dir=self.dir)
        if tier:
            text += KAFKA_TIER.format(dir=self.dir)
        text += self.more_properties
        self.properties = self.dir / "server.properties"
        self.properties.write_text(text)
        self.log = self.dir / "serve.log"
        self.classpath = str(ROOT / "target" / "kafka" / "lib" / "*")
        formatted = subprocess.run(
            [
                self.java,
                "-cp",
                self.classpath,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "AAAAAAAAAAAAAAAAAAAAAQ",
                "-c",
                str(self.properties),
                "--ignore-formatted",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if formatted.returncode != 0:
            raise RuntimeError(f"kafka storage format: {formatted.stdout}")
        self.start()

    def start(self):
        started = time.monotonic()
        command = [self.java, *KAFKA_JVM, "-cp", self.classpath, "kafka.Kafka", str(self.properties)]
        self.process = Process("kafka", command, self.log)
        wait_port(self.port, self.process.child, 120, "kafka", self.log)
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 3})
        while time.monotonic() - started < 120:
            try:
                if admin.list_topics(timeout=1).brokers:
                    break
            except Exception:
                time.sleep(0.02)
        self.ready_seconds = time.monotonic() - started

    def restart(self):
        self.process.stop()
        self.start()

    def topic_config(self, tiered, codec=None):
        if not tiered:
            return {"segment.bytes": str(1 << 30), "retention.ms": "-1"}
        return {
            "segment.bytes": str(16 * MIB),
            "retention.ms": "-1",
            "remote.storage.enable": "true",
            "local.retention.ms": "1000",
        }

    def local_log_bytes(self, topic=""):
        return sum(
            p.stat().st_size
            for p in (self.dir / "data").rglob("*.log")
            if re.fullmatch(r"\d{20}\.log", p.name) and not p.parent.name.startswith("__")
        )

    def tier_bytes(self):
        return tree_bytes(self.dir / "tier")

    def offload_all(self, topic):
        """Kafka has no such command: local.retention.ms=1000 rolls and drops; wait until nothing is left here."""
        deadline = time.monotonic() + 300
        while self.local_log_bytes() > 0:
            if time.monotonic() > deadline:
                raise RuntimeError("kafka kept local segments for 5 minutes")
            time.sleep(0.2)

    def stop(self):
        self.process.stop()
