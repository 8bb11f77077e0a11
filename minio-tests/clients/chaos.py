"""Clients under faults: a steady idempotent producer, a reader that follows, and the check of all that came of it.

    chaos.py produce BOOTSTRAP TOPIC,.. CLIENT LEDGER RECORDS_PER_SECOND   until standard input ends; then flushes
    chaos.py consume BOOTSTRAP TOPIC,.. CLIENT LEDGER                      until it ends; then to the ends of the topics
    chaos.py verify BOOTSTRAP TOPIC,.. DIRECTORY

java/Chaos.java is the same in Java, but for `verify`. A topic that is named as -TOPIC has its number in the list
and is left alone. A ledger (acked-*, read-*) has one entry per record that was acknowledged or read: topic's number
u16, client u16, partition u32, offset u64 (all ones: not told), record's number u64, time in ms u64. A value is the
client u16, the topic's number u16, the record's number u64 and bytes that follow from it. All little endian. A
client numbers its records in the order in which it sends them, over its topics in turn; the key is one of 64 and
follows from the number, so that it decides the partition too.
"""

import hashlib
import os
import struct
import sys
import threading
import time
from pathlib import Path

from canon import check, replaying, result

ENTRY = struct.Struct("<HHIQQQ")
NOWHERE = 2**64 - 1
HEAD = struct.Struct("<HHQ")
BLOCK = bytes(((n * n * 31 + n * 7) >> 3) & 255 for n in range(4096))
FLUSH_SECONDS_MAX = 300
END_SECONDS_MAX = 240


def value(client, topic, number):
    at = number % 2048
    return HEAD.pack(client, topic, number) + BLOCK[at : at + 200 + number * 31 % 1000]


def key(number):
    return b"key-%d" % (number // 4 % 64)


def used(topics):
    """Number and name of the topics that are not left alone."""
    return [(n, topic) for n, topic in enumerate(topics.split(",")) if not topic.startswith("-")]


def until_input_ends():
    stop = threading.Event()

    def wait():
        while os.read(0, 1024):
            pass
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    return stop


def told(error):
    """What librdkafka says that concerns no record: brokers that are away, or a producer that is done for."""
    print(f"{time.time():.3f} {error.name()} {error.str()}", file=sys.stderr, flush=True)
    check(not error.fatal(), f"the client is done for: {error.name()} {error.str()}")


def now_ms():
    return int(time.time() * 1000)


def produce(bootstrap, topics, client, ledger, rate):
    from confluent_kafka import Producer

    topics, client, rate = used(topics), int(client), float(rate)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "error_cb": told,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "delivery.timeout.ms": 600000,
            "request.timeout.ms": 10000,
            "socket.timeout.ms": 10000,
            "retry.backoff.ms": 50,
            "retry.backoff.max.ms": 250,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 250,
            "queue.buffering.max.messages": 500000,
            "log_level": 2,
        }
    )
    stop, out, failures, number, acked = until_input_ends(), open(ledger, "ab"), [], 0, 0

    def callback(topic, n):
        def delivered(error, message):
            nonlocal acked
            if error is not None:
                failures.append(f"record {n} of topic {topic}: {error}")
                return
            # librdkafka knows by a later record's acknowledgement that an earlier one is there too, and not where.
            offset = message.offset() if message.offset() is not None and message.offset() >= 0 else NOWHERE
            out.write(ENTRY.pack(topic, client, message.partition(), offset, n, now_ms()))
            acked += 1

        return delivered

    begun = time.monotonic()
    while not stop.is_set():
        due = int((time.monotonic() - begun) * rate)
        while number < due and not stop.is_set():
            topic, name = topics[number % len(topics)]
            try:
                producer.produce(
                    name, value(client, topic, number), key(number), on_delivery=callback(topic, number)
                )
                number += 1
            except BufferError:
                break
            producer.poll(0)
        producer.poll(0.01)
        out.flush()
        check(not failures, f"a record was given up: {failures[:1]}")
    asked = time.monotonic()
    left = producer.flush(FLUSH_SECONDS_MAX)
    out.close()
    check(left == 0, f"{left} records have no answer {FLUSH_SECONDS_MAX} s after the last was sent")
    check(not failures, f"a record was given up: {failures[:1]}")
    result(acked=acked, flush_seconds=round(time.monotonic() - asked, 1))


def consume(bootstrap, topics, _client, ledger):
    from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

    from canon import partitions_of

    topics = {name: number for number, name in used(topics)}
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "error_cb": told,
            "group.id": "chaos",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "socket.timeout.ms": 10000,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 250,
            "log_level": 2,
        }
    )
    following = {(t, p): 0 for t in topics for p in partitions_of(bootstrap, t)}
    consumer.assign([TopicPartition(t, p, 0) for t, p in following])
    stop, out, errors, ends, asked = until_input_ends(), open(ledger, "ab"), {}, None, None
    while ends is None or any(following[tp] < end for tp, end in ends.items()):
        for m in consumer.consume(2000, 0.1):
            if m.error() is not None:
                code = m.error().code()
                errors[m.error().name()] = errors.get(m.error().name(), 0) + 1
                lost = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._FATAL)
                check(code not in lost, f"a reader was told {m.error()}")
                continue
            at = (m.topic(), m.partition())
            check(m.offset() == following[at], f"read {at} at {m.offset()}, not {following[at]}")
            following[at] += 1
            sender, _, number = HEAD.unpack(m.value()[: HEAD.size])
            entry = (topics[m.topic()], sender, m.partition(), m.offset(), number, now_ms())
            out.write(ENTRY.pack(*entry))
        if not stop.is_set():
            continue
        asked = asked or time.monotonic()
        check(time.monotonic() - asked < END_SECONDS_MAX, f"a reader is stuck at {following} of {ends}; {errors}")
        if ends is None:
            try:
                ends = {
                    (t, p): consumer.get_watermark_offsets(TopicPartition(t, p), 15)[1] for t, p in following
                }
            except KafkaException as error:
                errors[str(error)] = errors.get(str(error), 0) + 1
    consumer.close()
    out.close()
    result(read=sum(following.values()), errors=errors)


def entries(directory, what):
    for path in sorted(Path(directory).glob(f"{what}-*")):
        whole = path.read_bytes()
        yield from ENTRY.iter_unpack(whole[: len(whole) // ENTRY.size * ENTRY.size])


def verify(bootstrap, topics, directory):
    topics = topics.split(",")
    acked, somewhere = {}, {}
    for topic, client, partition, offset, number, _ in entries(directory, "acked"):
        if offset == NOWHERE:
            somewhere[client, number] = (topic, partition)
            continue
        at = (topic, partition, offset)
        check(at not in acked, f"two acknowledgements for offset {offset} of {topics[topic]}-{partition}")
        acked[at] = (client, number)
    read = {}
    for topic, client, partition, offset, number, _ in entries(directory, "read"):
        at = (topic, partition, offset)
        was = read.setdefault(at, (client, number))
        check(was == (client, number), f"two readers saw {was} and {(client, number)} at {topics[topic]} {at}")
    seen, newest, digests, unknown = set(), {}, {}, 0
    for index, topic in enumerate(topics):
        for partition, offset, _, sent_key, got, _ in replaying(bootstrap, topic):
            where = f"{topic}-{partition} at {offset}"
            client, sent_to, number = HEAD.unpack(got[: HEAD.size])
            check(got == value(client, sent_to, number), f"{where}: not what client {client} sent as {number}")
            check(sent_to == index, f"{where}: record {number} was sent to {topics[sent_to]}")
            check(sent_key == key(number), f"{where}: record {number} has another key")
            check((client, number) not in seen, f"{where}: record {number} of client {client} a second time")
            seen.add((client, number))
            order = (index, partition, client)
            check(
                newest.get(order, -1) < number,
                f"{where}: record {number} of client {client} after its record {newest.get(order)}",
            )
            newest[order] = number
            at = (index, partition, offset)
            was = acked.pop(at, None)
            check(was in (None, (client, number)), f"{where}: {(client, number)}, acknowledged was {was}")
            place = somewhere.pop((client, number), None)
            check(place in (None, (index, partition)), f"{where}: {(client, number)} belongs to {place}")
            unknown += was is None and place is None
            was = read.pop(at, None)
            check(was in (None, (client, number)), f"{where}: {(client, number)}, a reader saw {was}")
            digest = digests.setdefault((index, partition), hashlib.sha256())
            digest.update(struct.pack("<QHQ", offset, client, number))
    check(not acked, f"{len(acked)} acknowledged records are gone, first {sorted(acked.items())[:3]}")
    check(not somewhere, f"{len(somewhere)} acknowledged records are gone, first {sorted(somewhere.items())[:3]}")
    check(not read, f"{len(read)} records that were read are gone, first {sorted(read.items())[:3]}")
    whole = hashlib.sha256(b"".join(digests[at].digest() for at in sorted(digests)))
    result(records=len(seen), without_acknowledgement=unknown, digest=whole.hexdigest())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
