"""Stock consumers that subscribe: members share a topic's partitions, one is killed, offsets go on.

    groups.py share BOOTSTRAP TOPIC PROTOCOL     classic, cooperative or consumer (KIP-848), by confluent-kafka
    groups.py kcat BOOTSTRAP TOPIC               kcat -G
    groups.py member BOOTSTRAP TOPIC GROUP PROTOCOL   one member, for `share`: a line per record, until killed
`share` and `kcat` create the topic. Prints what was seen as JSON.
"""

import json
import signal
import subprocess
import sys
import threading
import time

from canon import check, create_topic, result

PARTITIONS = 4
RECORDS = 2000
PATIENCE = 300


def configuration(bootstrap, group, protocol):
    found = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "log_level": 3,
    }
    if protocol == "consumer":
        return {**found, "group.protocol": "consumer"}
    strategy = "cooperative-sticky" if protocol == "cooperative" else "range"
    return {
        **found,
        "partition.assignment.strategy": strategy,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 500,
    }


def fill(bootstrap, topic, first, count):
    from confluent_kafka import Producer

    failures = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 3})

    def delivered(error, _message):
        if error is not None:
            failures.append(str(error))

    for number in range(first, first + count):
        value = b"%d" % number
        producer.produce(topic, value, partition=number % PARTITIONS, on_delivery=delivered)
        producer.poll(0)
    check(producer.flush(PATIENCE) == 0 and not failures, f"the topic is not filled: {failures[:1]}")


def member(bootstrap, topic, group, protocol):
    from confluent_kafka import Consumer

    def tell(**values):
        print(json.dumps(values), flush=True)

    consumer = Consumer(configuration(bootstrap, group, protocol))
    running = threading.Event()
    running.set()
    signal.signal(signal.SIGTERM, lambda *_: running.clear())
    consumer.subscribe(
        [topic],
        on_assign=lambda _, parts: tell(assigned=[p.partition for p in parts]),
        on_revoke=lambda _, parts: tell(revoked=[p.partition for p in parts]),
        on_lost=lambda _, parts: tell(revoked=[p.partition for p in parts]),
    )
    while running.is_set():
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error() is not None:
            tell(error=str(message.error()))
            continue
        tell(record=int(message.value()), partition=message.partition())
        try:
            consumer.commit(message=message, asynchronous=False)
        except Exception as error:  # a rebalance: the record comes again, to whoever has its partition
            tell(error=str(error))
    consumer.close()


class Member:
    """A member in a process of its own, and what it has told."""

    def __init__(self, *arguments):
        command = [sys.executable, __file__, "member", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.records, self.partitions, self.errors = [], set(), []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            told = json.loads(line)
            self.partitions = (self.partitions | set(told.get("assigned", []))) - set(told.get("revoked", []))
            if "record" in told:
                self.records.append(told["record"])
            if "error" in told:
                self.errors.append(told["error"])


def until(what, holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        check(time.monotonic() < end, f"not within {PATIENCE} s: {what()}")
        time.sleep(0.05)


def share(bootstrap, topic, protocol):
    from confluent_kafka import Consumer, TopicPartition

    create_topic(bootstrap, topic, PARTITIONS)
    group = f"group-{topic}"
    fill(bootstrap, topic, 0, RECORDS)
    members = [Member(bootstrap, topic, group, protocol) for _ in range(2)]

    def shares():
        return [sorted(m.partitions) for m in members]

    until(shares, lambda: [len(s) for s in shares()] == [2, 2])
    check(sorted(sum(shares(), [])) == list(range(PARTITIONS)), f"partitions given twice: {shares()}")
    seen = lambda: set(members[0].records) | set(members[1].records)
    until(lambda: f"{len(seen())} records read", lambda: seen() == set(range(RECORDS)))

    # One is killed: what comes from now on is the other's, once the session is over.
    began = time.monotonic()
    members[0].process.kill()
    fill(bootstrap, topic, RECORDS, RECORDS)
    until(shares, lambda: len(members[1].partitions) == PARTITIONS)
    took_over = time.monotonic() - began
    everything = set(range(2 * RECORDS))
    until(lambda: f"{len(seen())} records read", lambda: seen() == everything)
    before = len(members[0].records) + len(members[1].records)
    members[1].process.send_signal(signal.SIGTERM)
    check(members[1].process.wait(PATIENCE) == 0, "a member does not end")

    # Committed is committed: who comes next finds nothing left.
    consumer = Consumer(configuration(bootstrap, group, protocol))
    committed = consumer.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], 120)
    offsets = [part.offset for part in committed]
    check(offsets == [2 * RECORDS // PARTITIONS] * PARTITIONS, f"committed {offsets}")
    consumer.close()
    result(records=len(everything), read=before, took_over_seconds=round(took_over, 1), errors=members[1].errors[:3])


def kcat(bootstrap, topic):
    create_topic(bootstrap, topic, PARTITIONS)
    fill(bootstrap, topic, 0, RECORDS)

    def read():
        group = ["-G", f"group-{topic}", "-X", "auto.offset.reset=earliest", "-q", "-e", topic]
        done = subprocess.run(["kcat", "-b", bootstrap, *group], capture_output=True, timeout=PATIENCE)
        check(done.returncode == 0, f"kcat -G: exit {done.returncode}: {done.stderr.decode()[-500:]}")
        return [int(line) for line in done.stdout.split()]

    first = read()
    check(sorted(first) == list(range(RECORDS)), f"kcat -G read {len(first)} records")
    fill(bootstrap, topic, RECORDS, 100)
    second = read()
    check(sorted(second) == list(range(RECORDS, RECORDS + 100)), f"then {len(second)}, {second[:3]}...")
    result(first=len(first), second=len(second))


{"share": share, "kcat": kcat, "member": member}[sys.argv[1]](*sys.argv[2:])
