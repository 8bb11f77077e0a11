"""Delayed delivery by confluent-kafka (librdkafka).

    delayed.py BOOTSTRAP TOPIC REPLICAS REPLICATION   creates the topic (fetch or raft); sends records, most of them to be delivered
                      later, and reads them until standard input ends; then each has come exactly once, none before its time
Times are of this machine's clock, which is the brokers' too. Prints what was seen as JSON.
"""

import random
import sys
import threading
import time

from canon import check, create_topic, result

PARTITIONS = 3
RECORDS_PER_SECOND = 300
DELAY_MS_MAX = 8_000
PATIENCE = 240


def now_ms():
    return int(time.time() * 1000)


def send(bootstrap, topic, stop, sent, failures):
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 3,
            "enable.idempotence": True,
            "linger.ms": 20,
            "message.timeout.ms": PATIENCE * 1000,
        }
    )
    rng, number = random.Random(20), 0

    def delivered(error, message):
        if error is not None:
            failures.append(str(error))

    while not stop.is_set():
        # By time of day, by delay, a time that is past, none.
        due, kind = now_ms() + rng.randrange(100, DELAY_MS_MAX), number % 5
        headers = [
            [("highwater-deliver-at", str(due).encode())],
            [("other", b"1"), ("highwater-deliver-at", str(due).encode())],
            [("highwater-delay-ms", str(due - now_ms()).encode())],
            [("highwater-deliver-at", str(due - 60_000).encode())],
            [],
        ][kind]
        due = due if kind < 3 else 0
        sent[number] = due
        producer.produce(
            topic, str(number).encode(), partition=number % PARTITIONS, headers=headers, on_delivery=delivered
        )
        number += 1
        producer.poll(1 / RECORDS_PER_SECOND)
    check(producer.flush(PATIENCE) == 0, "not everything was delivered in time")


def main(bootstrap, topic, replicas, replication):
    from confluent_kafka import Consumer, TopicPartition

    more = {"min_insync_replicas": min(2, replicas), "highwater_delayed_delivery": "true"}
    more["highwater_replication"] = replication
    create_topic(bootstrap, topic, PARTITIONS, replicas, **more)
    stop, sent, failures = threading.Event(), {}, []
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    sender = threading.Thread(target=send, args=(bootstrap, topic, stop, sent, failures))
    sender.start()
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 3,
            "group.id": f"delayed-{topic}",
            "enable.auto.commit": False,
            "check.crcs": True,
            "fetch.wait.max.ms": 50,
        }
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    seen, twice, early, late, end, limit = set(), 0, [], [], None, None
    while True:
        for message in consumer.consume(1_000, 0.05):
            if message.error() is not None:
                continue
            at, number = now_ms(), int(message.value())
            twice += number in seen
            seen.add(number)
            if sent[number] > 0:
                late.append(at - sent[number])
                if at < sent[number]:
                    early.append(number)
        if sender.is_alive():
            continue
        # A moment longer than it takes for everything to be there: nothing comes twice.
        if end is None and len(seen) == len(sent):
            end = time.monotonic() + 3
        if end is not None and time.monotonic() > end:
            break
        limit = limit or time.monotonic() + PATIENCE
        check(time.monotonic() < limit, f"{len(seen)} of {len(sent)} have come")
    check(not failures, f"{len(failures)} records failed: {failures[:1]}")
    check(twice == 0, f"{twice} records came twice")
    check(not early, f"{len(early)} records came early")
    late.sort()
    at = {f"late_p{p}_ms": late[min(len(late) * p // 100, len(late) - 1)] for p in (50, 90, 99)}
    result(records=len(seen), delayed=len(late), late_max_ms=late[-1], **at)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
