"""Small jobs of the Rust tests.

topics.py create BOOTSTRAP TOPIC PARTITIONS NAME=VALUE...   replicas=N and settings of the topic
topics.py refused BOOTSTRAP TOPIC              creating a topic while nobody can: the error, and whether a client may try again
topics.py elect BOOTSTRAP TOPIC                preferred leaders of all its partitions; those that cannot lead stay out
topics.py configure BOOTSTRAP TOPIC NAME=VALUE...           other settings of the topic, the rest stays
topics.py leaders BOOTSTRAP TOPIC              who leads each partition, and which replicas are in sync
topics.py fill BOOTSTRAP TOPIC FIRST COUNT     COUNT records "FIRST.." of 1 KiB to partition 0, in order
topics.py filled BOOTSTRAP TOPIC COUNT         partition 0 has exactly what `fill` wrote from 0 to COUNT
topics.py ask NODE TOPIC                       the errors with which one node answers a produce and a fetch of partition 0
topics.py around BOOTSTRAP TOPIC ROTTEN        reads partition 0 below ROTTEN and from its end: what `fill` wrote
topics.py merged BOOTSTRAP TOPIC DIRECTORY     every record of every ledger-* in DIRECTORY once, as load.py says
"""

import struct
import sys
from pathlib import Path

from canon import check, replaying, result
from rawkafka import Connection, batch, records_in, text


def payload(number):
    return b"%012d " % number + b"x" * 1000


def create(bootstrap, topic, partitions, *config):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    settings = dict(item.split("=", 1) for item in config)
    replicas = int(settings.pop("replicas", 1))
    admin.create_topics([NewTopic(topic, int(partitions), replicas, config=settings)])[topic].result(120)
    result(topic=topic)


def configure(bootstrap, topic, *config):
    from confluent_kafka.admin import (
        AdminClient,
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ResourceType,
    )

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    pairs = [item.split("=", 1) for item in config]
    entries = [ConfigEntry(n, v, incremental_operation=AlterConfigOpType.SET) for n, v in pairs]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(120)
    result(topic=topic)


def leaders(bootstrap, topic):
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    found = admin.list_topics(topic, 60).topics[topic].partitions
    result(
        leaders=[found[p].leader for p in sorted(found)],
        isrs=[sorted(found[p].isrs) for p in sorted(found)],
    )


def refused(bootstrap, topic):
    """Asks the first broker."""
    # Kafka's own: REQUEST_TIMED_OUT, NOT_CONTROLLER, COORDINATOR_NOT_AVAILABLE, LEADER_NOT_AVAILABLE.
    retriable, c = {7, 41, 15, 5}, Connection(bootstrap.split(",")[0])
    body = struct.pack(">i", 1) + text(topic) + struct.pack(">ihii", 1, 1, 0, 0)
    r = c.call(19, 2, body + struct.pack(">i?", 5000, False))
    r.num("i")
    check(r.num("i") == 1 and r.text() == topic, "one answer, for the topic")
    error, message = r.num("h"), r.text()
    check(message and "\n" not in message, f"one line that says why, not {message!r}")
    result(error=error, retriable=error in retriable, message=message)


def elect(bootstrap, topic):
    from confluent_kafka import ElectionType, KafkaException, TopicPartition
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    try:
        partitions = admin.list_topics(topic, 15).topics[topic].partitions
        wanted = [TopicPartition(topic, p) for p in partitions]
        outcomes = admin.elect_leaders(ElectionType.PREFERRED, wanted).result(120)
    except KafkaException as error:
        return result(failed=str(error))
    result(outcomes={str(tp.partition): error and error.name() for tp, error in outcomes.items()})


def fill(bootstrap, topic, first, count):
    from confluent_kafka import Producer

    failures, first, count = [], int(first), int(count)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "batch.size": 50000})
    for number in range(first, first + count):
        producer.produce(
            topic,
            payload(number),
            partition=0,
            on_delivery=lambda error, _: error and failures.append(str(error)),
        )
        producer.poll(0)
    check(producer.flush(120) == 0 and not failures, f"produce failed: {failures[:1]}")
    result(records=first + count)


def filled(bootstrap, topic, count):
    numbers = 0
    for partition, offset, _, _, value, _ in replaying(bootstrap, topic):
        check(partition == 0 and value == payload(offset), f"{topic}-{partition} at {offset}: {value[:20]}")
        numbers += 1
    check(numbers == int(count), f"{numbers} records, not {count}")
    result(records=numbers)


def ask(node, topic):
    c = Connection(node)
    produced = c.produce(topic, 0, batch([(0, None, b"stray", [])]))
    result(produce=produced[0], fetch=c.fetch(topic, 0, 0)[0])


def around(bootstrap, topic, rotten):
    """The record at each offset is the one of that number, everywhere but in the segment that rotted."""
    c, rotten = Connection(bootstrap), int(rotten)
    _, _, end = c.list_offset(topic, 0, -1)
    seen = {}
    for start in (0, end - 600):
        at = start
        while at < (rotten if start < rotten else end):
            error, _, data = c.fetch(topic, 0, at, 200_000)
            check(error == 0, f"fetch at {at}: error {error}")
            got = None
            for offset, _, _, _, value, _ in records_in(data):
                if offset >= rotten and start < rotten:
                    break
                check(value == payload(offset), f"offset {offset} holds {value[:20]}")
                seen[offset] = got = offset
            if got is None:
                break
            at = got + 1
    check(set(range(rotten)) <= seen.keys(), "records below the rotten segment are missing")
    check(end - 1 in seen, "the end cannot be read")
    result(records=len(seen))


def merged(bootstrap, topic, directory):
    entry, acked = struct.Struct("<IQQ"), {}
    for ledger in sorted(Path(directory).glob("ledger-*")):
        for partition, offset, number in entry.iter_unpack(ledger.read_bytes()):
            check(
                (partition, offset) not in acked,
                f"offset {offset} of partition {partition} acknowledged twice",
            )
            acked[partition, offset] = number
    records = 0
    for partition, offset, _, _, value, _ in replaying(bootstrap, topic):
        records += 1
        wanted = acked.pop((partition, offset), None)
        check(
            wanted is not None,
            f"{topic}-{partition} at {offset}: nobody sent this, though no send was in doubt",
        )
        check(struct.unpack("<Q", value[:8])[0] == wanted, f"{topic}-{partition} at {offset}: another record")
    check(not acked, f"{len(acked)} acknowledged records are gone")
    result(records=records)


globals()[sys.argv[1]](*sys.argv[2:])
