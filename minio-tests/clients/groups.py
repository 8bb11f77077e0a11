"""Stock consumers that subscribe: members share a topic's partitions, one is killed, offsets go on.

    groups.py share BOOTSTRAP TOPIC PROTOCOL     classic, cooperative, static or consumer (KIP-848), by confluent-kafka
    groups.py failover BOOTSTRAP TOPIC PROTOCOL HIGHWATER NODE=PID...   their coordinator is killed: members go on
    groups.py kcat BOOTSTRAP TOPIC               kcat -G
    groups.py kafka-python BOOTSTRAP TOPIC       a consumer by that client, then one that goes on where it stopped
    groups.py aiokafka BOOTSTRAP TOPIC           the same by that one
    groups.py member BOOTSTRAP TOPIC GROUP PROTOCOL NAME   one member, for `share`: a line per record, until killed
All but `member` create the topic. Prints what was seen as JSON.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time

from canon import check, create_topic, result

PARTITIONS = 4
RECORDS = 2000
PATIENCE = 300


def configuration(bootstrap, group, protocol, name=None):
    found = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "log_level": 3,
    }
    if protocol == "consumer":
        return {**found, "group.protocol": "consumer"}
    if protocol == "static" and name is not None:
        found["group.instance.id"] = name
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


def member(bootstrap, topic, group, protocol, name):
    from confluent_kafka import Consumer, KafkaError, KafkaException

    def tell(**values):
        print(json.dumps(values), flush=True)

    consumer = Consumer(configuration(bootstrap, group, protocol, name))
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
    try:
        consumer.commit(asynchronous=False)  # again, for those that were refused
    except KafkaException as error:
        if error.args[0].code() != KafkaError._NO_OFFSET:
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


def shared(bootstrap, topic, group, protocol):
    """Two members, once they share the topic; what each has, and what both have read."""
    members = [Member(bootstrap, topic, group, protocol, f"member-{n}") for n in range(2)]

    def shares():
        return [sorted(m.partitions) for m in members]

    until(shares, lambda: [len(s) for s in shares()] == [2, 2])
    check(sorted(sum(shares(), [])) == list(range(PARTITIONS)), f"partitions given twice: {shares()}")
    return members, shares, lambda: set(members[0].records) | set(members[1].records)


def all_committed(bootstrap, topic, group, protocol):
    """Committed is committed: who comes next finds nothing left."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(configuration(bootstrap, group, protocol))
    committed = consumer.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], 120)
    offsets = [part.offset for part in committed]
    check(offsets == [2 * RECORDS // PARTITIONS] * PARTITIONS, f"committed {offsets}")
    consumer.close()


def share(bootstrap, topic, protocol):
    create_topic(bootstrap, topic, PARTITIONS)
    group = f"group-{topic}"
    fill(bootstrap, topic, 0, RECORDS)
    members, shares, seen = shared(bootstrap, topic, group, protocol)
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

    all_committed(bootstrap, topic, group, protocol)
    result(records=len(everything), read=before, took_over_seconds=round(took_over, 1), errors=members[1].errors[:3])


def coordinator(highwater, bootstrap, group):
    """The node that coordinates the group, and how many members it knows; waits for a load."""
    command = [highwater, "group", "describe", group, "--output", "json", "--kafka", bootstrap]
    told = []

    def is_known():
        told[:] = [subprocess.run(command, capture_output=True, text=True)]
        return told[0].returncode == 0

    until(lambda: told[0].stderr, is_known)
    described = json.loads(told[0].stdout)
    return described["coordinator"], len(described["members"])


def failover(bootstrap, topic, protocol, highwater, *nodes):
    create_topic(bootstrap, topic, PARTITIONS, replicas=3)
    group = f"group-{topic}"
    fill(bootstrap, topic, 0, RECORDS)
    members, shares, seen = shared(bootstrap, topic, group, protocol)
    until(lambda: f"{len(seen())} records read", lambda: len(seen()) >= RECORDS // 4)

    # They are in the middle of it: nothing that was committed comes again, but for what was on its way.
    processes = dict(node.split("=") for node in nodes)
    killed, _ = coordinator(highwater, bootstrap, group)
    os.kill(int(processes[str(killed)]), signal.SIGKILL)
    began = time.monotonic()
    everything = set(range(2 * RECORDS))
    fill(bootstrap, topic, RECORDS, RECORDS)
    until(lambda: f"{len(seen())} records read", lambda: seen() == everything)
    took = time.monotonic() - began
    read = sum(len(m.records) for m in members)
    again = read - len(everything)
    check(again < RECORDS // 4, f"{again} records were read again: {members[0].errors} {members[1].errors}")
    until(shares, lambda: sorted(sum(shares(), [])) == list(range(PARTITIONS)))
    heir, known = coordinator(highwater, bootstrap, group)
    check(heir != killed, f"node {heir} was killed and coordinates")
    check(known == 2, f"{known} members are known to the next coordinator")
    for one in members:
        one.process.send_signal(signal.SIGTERM)
    check([one.process.wait(PATIENCE) for one in members] == [0, 0], "a member does not end")
    all_committed(bootstrap, topic, group, protocol)
    result(killed=killed, heir=heir, again=again, seconds=round(took, 1))


def goes_on(bootstrap, topic, read):
    """`read(count)` reads so many records as a new member of one group, commits them, and leaves."""
    create_topic(bootstrap, topic, PARTITIONS)
    fill(bootstrap, topic, 0, RECORDS)
    first = read(RECORDS)
    check(sorted(first) == list(range(RECORDS)), f"read {len(first)} records")
    fill(bootstrap, topic, RECORDS, 100)
    second = read(100)
    check(sorted(second) == list(range(RECORDS, RECORDS + 100)), f"then {len(second)}, {second[:3]}...")
    result(first=len(first), second=len(second))


def kafka_python(bootstrap, topic):
    from kafka import KafkaConsumer

    def read(count):
        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=f"group-{topic}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        found, end = [], time.monotonic() + PATIENCE
        while len(found) < count:
            check(time.monotonic() < end, f"{len(found)} of {count} records within {PATIENCE} s")
            for records in consumer.poll(timeout_ms=500).values():
                found.extend(int(record.value) for record in records)
        consumer.commit()
        consumer.close()
        return found

    goes_on(bootstrap, topic, read)


def aiokafka(bootstrap, topic):
    from aiokafka import AIOKafkaConsumer

    async def read_some(count):
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=f"group-{topic}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            found, end = [], time.monotonic() + PATIENCE
            while len(found) < count:
                check(time.monotonic() < end, f"{len(found)} of {count} records within {PATIENCE} s")
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found.extend(int(record.value) for record in records)
            await consumer.commit()
            return found
        finally:
            await consumer.stop()

    goes_on(bootstrap, topic, lambda count: asyncio.run(read_some(count)))


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


COMMANDS = {
    "share": share,
    "failover": failover,
    "kcat": kcat,
    "kafka-python": kafka_python,
    "aiokafka": aiokafka,
    "member": member,
}
COMMANDS[sys.argv[1]](*sys.argv[2:])
