"""What a cluster is asked over a bare socket: who leads what, creating topics, one batch to many partitions.

Bare because a client library waits, retries and remembers by its own rules, and those would be in the figures.
The bytes of frames and batches are those of minio-tests/clients/rawkafka.py.
"""

import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "minio-tests" / "clients"))

import rawkafka  # noqa: E402
from rawkafka import text  # noqa: E402

PRODUCE, METADATA, CREATE_TOPICS, ELECT_LEADERS, DESCRIBE_QUORUM = 0, 3, 19, 43, 55
BATCH = rawkafka.batch([(1_700_000_000_000, None, b"says that this partition can be written", [])])


class Refused(Exception):
    """The broker's own words."""


class Partition:
    def __init__(self, error, leader, isr):
        self.error, self.leader, self.isr = error, leader, isr


def numbers(r):
    return [r.num("i") for _ in range(r.num("i"))]


class Connection(rawkafka.Connection):
    def metadata(self, topics):
        """Ids of the brokers that are there, and the rest of the answer. Metadata v7, told to create nothing."""
        r = self.call(METADATA, 7, struct.pack(">i", len(topics)) + b"".join(map(text, topics)) + b"\x00")
        r.num("i")
        nodes = []
        for _ in range(r.num("i")):
            nodes.append(r.num("i"))
            r.text(), r.num("i"), r.text()
        r.text(), r.num("i")
        return nodes, r

    def nodes(self):
        return self.metadata([])[0]

    def partitions(self, topic):
        """Number -> Partition as this node knows it; empty where it does not know the topic."""
        _, r = self.metadata([topic])
        assert r.num("i") == 1
        r.num("h"), r.text(), r.num("b")
        found = {}
        for _ in range(r.num("i")):
            error, number, leader, _ = r.num("h"), r.num("i"), r.num("i"), r.num("i")
            _, isr, _ = numbers(r), numbers(r), numbers(r)
            found[number] = Partition(error, leader, isr)
        return found

    def create(self, topic, partitions, replication_factor, config, replicas=None):
        """CreateTopics v4; with `replicas`, one partition that lies on these nodes."""
        counts = (-1, -1) if replicas else (partitions, replication_factor)
        body = struct.pack(">i", 1) + text(topic) + struct.pack(">ih", *counts)
        if replicas:
            body += struct.pack(">iii", 1, 0, len(replicas)) + struct.pack(f">{len(replicas)}i", *replicas)
        else:
            body += struct.pack(">i", 0)
        body += struct.pack(">i", len(config)) + b"".join(text(k) + text(v) for k, v in config.items())
        r = self.call(CREATE_TOPICS, 4, body + struct.pack(">ib", 120_000, 0))
        r.num("i")
        assert r.num("i") == 1 and r.text() == topic
        error, message = r.num("h"), r.text()
        if error:
            raise Refused(f"CreateTopics {topic}: error {error}: {message}")

    def produce_each(self, topic, partitions, timeout_ms):
        """One record to each of these partitions with acks=all; those that acknowledged it. Produce v7."""
        body = struct.pack(">hhii", -1, -1, timeout_ms, 1) + text(topic) + struct.pack(">i", len(partitions))
        body += b"".join(struct.pack(">ii", p, len(BATCH)) + BATCH for p in partitions)
        r = self.call(PRODUCE, 7, body)
        assert r.num("i") == 1 and r.text() == topic
        written = []
        for _ in range(r.num("i")):
            number, error, _, _, _ = r.num("i"), r.num("h"), r.num("q"), r.num("q"), r.num("q")
            if not error:
                written.append(number)
        return written

    def elect_preferred_leaders(self):
        """Of every partition; what can not be elected stays as it is. ElectLeaders v0."""
        self.call(ELECT_LEADERS, 0, struct.pack(">ii", -1, 30_000))

    def quorum_leader(self):
        """Node that leads Kafka's control plane. DescribeQuorum v0, with compact lists."""
        name = b"__cluster_metadata"
        body = b"\x02" + bytes([len(name) + 1]) + name + b"\x02" + struct.pack(">i", 0) + b"\x00\x00\x00"
        r = self.call(DESCRIBE_QUORUM, 0, body, flexible=True)
        error = r.num("h")
        if error:
            raise Refused(f"DescribeQuorum: error {error}")
        assert r.num("b") == 2
        assert bytes(r.take(r.num("b") - 1)) == name and r.num("b") == 2 and r.num("i") == 0
        r.num("h")
        return r.num("i")
