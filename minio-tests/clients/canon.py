"""What the client scripts share: one canonical digest of a topic's records, a replay by the stock client, results.

The digest is the same in every script and in Java (Roundtrip.java): per partition SHA-256 over, in offset order,
partition i32, offset i64, timestamp ms i64, key, value, header count i32, each header's name and value; byte
strings with an i32 length before them, -1 for null; all big endian. The topic's digest is SHA-256 over the
partitions' digests in order.
"""

import hashlib
import json
import struct
import sys
import time


def check(condition, message):
    if not condition:
        print(f"FAILED: {message}", file=sys.stderr, flush=True)
        sys.exit(1)


def result(**values):
    print(json.dumps(values), flush=True)


def sized(data):
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def canonical(partition, offset, timestamp, key, value, headers):
    out = struct.pack(">iqq", partition, offset, timestamp) + sized(key) + sized(value)
    out += struct.pack(">i", len(headers))
    for name, content in headers:
        out += sized(name.encode() if isinstance(name, str) else name) + sized(content)
    return out


def digest(records):
    """`records`: (partition, offset, timestamp, key, value, headers) in any order."""
    parts = {}
    for row in sorted(records, key=lambda r: (r[0], r[1])):
        parts.setdefault(row[0], hashlib.sha256()).update(canonical(*row))
    whole = hashlib.sha256()
    for partition in sorted(parts):
        whole.update(parts[partition].digest())
    return whole.hexdigest()


def partitions_of(bootstrap, topic):
    from confluent_kafka.admin import AdminClient

    found = (
        AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
        .list_topics(topic, timeout=60)
        .topics[topic]
    )
    check(found.error is None, f"metadata of {topic}: {found.error}")
    return sorted(found.partitions)


def create_topic(bootstrap, topic, partitions, replicas=1, **config):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    config = {name.replace("__", "-").replace("_", "."): str(value) for name, value in config.items()}
    admin.create_topics([NewTopic(topic, partitions, replicas, config=config)])[topic].result(120)


def replay(bootstrap, topic, starts=None, patience=180, gaps=False):
    """Every record of the topic by librdkafka, from `starts` (or 0) to the end, CRCs checked; fails on an error,
    disorder or (unless `gaps`) a gap."""
    return list(replaying(bootstrap, topic, starts, patience, gaps))


def replaying(bootstrap, topic, starts=None, patience=180, gaps=False):
    """The same, one record at a time: for topics larger than memory should hold."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "replay",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "fetch.queue.backoff.ms": 5,
        }
    )
    following = dict(starts or {p: 0 for p in partitions_of(bootstrap, topic)})
    consumer.assign([TopicPartition(topic, p, o) for p, o in following.items()])
    waiting, last = set(following), time.monotonic()
    while waiting:
        messages = consumer.consume(5000, 0.2)
        last = time.monotonic() if messages else last
        check(
            time.monotonic() - last < patience, f"replay of {topic}: silent for {patience} s at {following}"
        )
        for m in messages:
            if m.error() is not None:
                check(m.error().code() == KafkaError._PARTITION_EOF, f"replay of {topic}: {m.error()}")
                waiting.discard(m.partition())
                continue
            p, o = m.partition(), m.offset()
            check(
                o == following[p] or (gaps and o > following[p]),
                f"replay of {topic}-{p}: got {o}, not {following[p]}",
            )
            following[p] = o + 1
            yield p, o, m.timestamp()[1], m.key(), m.value(), m.headers() or []
    consumer.close()
