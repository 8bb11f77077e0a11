"""Transactions by confluent-kafka (librdkafka).

    transactions.py ends BOOTSTRAP TOPIC                commits and aborts in turn; both isolation levels read what they should
    transactions.py process BOOTSTRAP IN OUT REPLICAS   reads from one topic, writes to another, offsets in the transaction, until
                                                        standard input ends; then everything that went in came out exactly once
Both create their topics. Prints what was seen as JSON.
"""

import sys
import threading
import time

from canon import check, create_topic, result

PARTITIONS = 3
PATIENCE = 240
RECORDS_PER_SECOND = 300


def settings(bootstrap, **more):
    return {"bootstrap.servers": bootstrap, "log_level": 3, **{k.replace("_", "."): v for k, v in more.items()}}


def producer_of(bootstrap, name):
    from confluent_kafka import KafkaException, Producer

    end = time.monotonic() + PATIENCE
    producer = Producer(settings(bootstrap, transactional_id=name, transaction_timeout_ms=60000, linger_ms=5))
    while True:
        try:
            producer.init_transactions(30)
            return producer
        except KafkaException as error:
            check(error.args[0].retriable() and time.monotonic() < end, f"init_transactions: {error}")


def finish(call, what):
    """Ends a transaction, again while that may help; the error that it cannot end with."""
    from confluent_kafka import KafkaException

    end = time.monotonic() + PATIENCE
    while True:
        try:
            call(30)
            return None
        except KafkaException as error:
            told = error.args[0]
            if not told.retriable():
                return told
            check(time.monotonic() < end, f"{what}: {error}")


def read_all(bootstrap, topic, isolation):
    """Values of the whole topic as a consumer of this isolation level has them."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        settings(
            bootstrap,
            group_id=f"reader-{time.time_ns()}",
            isolation_level=isolation,
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
        )
    )
    consumer.assign([TopicPartition(topic, n, 0) for n in range(PARTITIONS)])
    values, ended, end = [], set(), time.monotonic() + PATIENCE
    while len(ended) < PARTITIONS:
        check(time.monotonic() < end, f"{topic} is not read to its end: {ended}")
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error() is None:
            values.append(message.value())
        else:
            check(message.error().name() == "_PARTITION_EOF", f"{topic}: {message.error()}")
            ended.add(message.partition())
    consumer.close()
    return values


def ends(bootstrap, topic):
    create_topic(bootstrap, topic, PARTITIONS)
    producer = producer_of(bootstrap, f"id-{topic}")
    kept, all_values = [], []
    for transaction in range(40):
        producer.begin_transaction()
        values = [b"%d-%d" % (transaction, n) for n in range(10)]
        for n, value in enumerate(values):
            producer.produce(topic, value, partition=n % PARTITIONS)
        check(producer.flush(PATIENCE) == 0, "not flushed")
        all_values += values
        if transaction % 4 == 3:
            error = finish(producer.abort_transaction, "abort")
        else:
            kept += values
            error = finish(producer.commit_transaction, "commit")
        check(error is None, f"transaction {transaction}: {error}")
    # Markers are written after the answer to the end: the last ones are waited for.
    end = time.monotonic() + PATIENCE
    while sorted(read_all(bootstrap, topic, "read_committed")) != sorted(kept):
        check(time.monotonic() < end, "readers of committed data do not see what was committed")
    check(sorted(read_all(bootstrap, topic, "read_uncommitted")) == sorted(all_values), "uncommitted readers")
    result(committed=len(kept), written=len(all_values))


def fill(bootstrap, topic, stop, delivered):
    from confluent_kafka import Producer

    producer = Producer(settings(bootstrap, enable_idempotence=True, linger_ms=5))

    def done(error, message):
        check(error is None, f"not written: {error}")
        delivered.append(int(message.value()))

    number = 0
    while not stop.is_set():
        producer.produce(topic, b"%d" % number, partition=number % PARTITIONS, on_delivery=done)
        producer.poll(0)
        number += 1
        time.sleep(1 / RECORDS_PER_SECOND)
    check(producer.flush(PATIENCE) == 0, "the topic is not filled")


def process(bootstrap, source, sink, replicas):
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    for topic in (source, sink):
        create_topic(bootstrap, topic, PARTITIONS, replicas, min_insync_replicas=min(2, replicas))
    stop, delivered = threading.Event(), []
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    filler = threading.Thread(target=fill, args=(bootstrap, source, stop, delivered))
    filler.start()
    name = f"id-{sink}"
    producer = producer_of(bootstrap, name)
    consumer = Consumer(
        settings(
            bootstrap,
            group_id=f"group-{sink}",
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
    )
    consumer.subscribe([source])
    done, counts, end = 0, {"committed": 0, "aborted": 0, "renewed": 0}, None
    while stop.is_set() is False or filler.is_alive() or done < len(delivered):
        if end is None and stop.is_set() and not filler.is_alive():
            end = time.monotonic() + PATIENCE
        check(end is None or time.monotonic() < end, f"{done} of {len(delivered)} came through: {counts}")
        messages = [m for m in consumer.consume(200, 0.5) if m.error() is None]
        if not messages:
            continue
        error = None
        try:
            producer.begin_transaction()
            for message in messages:
                producer.produce(sink, message.value(), partition=message.partition())
            offsets = {}
            for message in messages:
                offsets[message.partition()] = message.offset() + 1
            offsets = [TopicPartition(source, p, o) for p, o in offsets.items()]
            group = consumer.consumer_group_metadata()
            error = finish(lambda wait: producer.send_offsets_to_transaction(offsets, group, wait), "offsets")
            error = error or finish(producer.commit_transaction, "commit")
        except KafkaException as raised:
            error = raised.args[0]
        if error is None:
            counts["committed"] += 1
            done += len(messages)
            continue
        counts["aborted"] += 1
        if error.fatal() or not error.txn_requires_abort() or finish(producer.abort_transaction, "abort"):
            counts["renewed"] += 1
            producer = producer_of(bootstrap, name)
        done = rewind(consumer)
    consumer.close()
    expected = sorted(delivered)
    end = time.monotonic() + PATIENCE
    while True:
        found = sorted(int(value) for value in read_all(bootstrap, sink, "read_committed"))
        if found == expected:
            break
        check(len(found) == len(set(found)), f"{len(found) - len(set(found))} came out twice")
        check(time.monotonic() < end, f"{len(found)} of {len(expected)} came out: {counts}")
    result(records=len(expected), **counts)


def rewind(consumer):
    """Goes back to what is committed; how many records that is."""
    from confluent_kafka import KafkaException, TopicPartition

    end = time.monotonic() + PATIENCE
    while True:
        try:
            committed = consumer.committed(consumer.assignment(), 30)
            for at in committed:
                consumer.seek(TopicPartition(at.topic, at.partition, max(at.offset, 0)))
            return sum(max(at.offset, 0) for at in committed)
        except KafkaException as error:
            check(time.monotonic() < end, f"rewind: {error}")
            time.sleep(0.2)


if __name__ == "__main__":
    if sys.argv[1] == "ends":
        ends(sys.argv[2], sys.argv[3])
    else:
        check(sys.argv[1] == "process", "unknown command")
        process(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
