"""The load that both systems get: stock librdkafka from Python, in a process of its own. Prints one JSON line.

    client.py produce BOOTSTRAP TOPIC RECORDS SIZE ACKS CODEC
    client.py latency BOOTSTRAP TOPIC SECONDS RATE LINGER_MS ACKS
    client.py consume BOOTSTRAP TOPIC RECORDS
    client.py first BOOTSTRAP TOPIC PARTITIONS PLACES
    client.py transactions BOOTSTRAP TOPIC PRODUCERS RECORDS SECONDS
    client.py payloads FILE SIZE COUNT
MB is 10^6 bytes of keys and values.
"""

import json
import random
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "minio-tests" / "clients"))

WORDS = (
    "order shipment payment refund basket customer warehouse carrier terminal invoice pending accepted rejected "
    "delivered berlin oslo madrid chicago nairobi standard express overnight fragile"
).split()


def payloads(size, count, seed=1):
    """JSON events of exactly `size` bytes, one schema: ids and numbers that do not repeat, words that do (1 KiB:
    zstd -1 about 5x, lz4 about 3x)."""
    rng, out = random.Random(seed), []
    for n in range(count):
        event = {"id": "%016x" % rng.getrandbits(64), "at": 1_700_000_000_000 + n * 137}
        text = json.dumps(event, separators=(",", ":"))
        for i in range(1000):
            value = f"{rng.choice(WORDS)} order" if i % 4 else round(rng.random() * 1_000, 2)
            longer = text[:-1] + f',"{WORDS[i * 7 % len(WORDS)]}_{i}":{json.dumps(value)}' + "}"
            if len(longer) > size - 7:
                break
            text = longer
        room = size - len(text) - 7
        out.append(
            (
                text[:-1] + ',"z":"' + "%0*x" % (room, rng.getrandbits(4 * room)) + '"}'
                if room > 0
                else text[:-1] + " " * (room + 7) + "}"
            ).encode()
        )
    return out


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def quantiles(values):
    values = sorted(values)
    at = lambda q: round(values[min(int(len(values) * q), len(values) - 1)] * 1e3, 3)  # noqa: E731
    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": round(values[-1] * 1e3, 3)}


def wait_for_topic(bootstrap, topic):
    from confluent_kafka import Producer

    Producer({"bootstrap.servers": bootstrap}).list_topics(topic, timeout=30)


def produce(bootstrap, topic, records, size, acks, codec):
    from confluent_kafka import Producer

    records, size = int(records), int(size)
    values = payloads(size, min(records, 20_000))
    failures = []

    def delivered(error, _):
        if error is not None:
            failures.append(str(error))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": acks,
            "compression.type": codec,
            "linger.ms": 5,
            "batch.size": 131072 if size < 500 else 1000000,
            "queue.buffering.max.messages": 500000,
            "queue.buffering.max.kbytes": 131072,
            "enable.idempotence": acks == "all",
        }
    )
    producer.produce(
        topic, values[0], on_delivery=delivered
    )  # connections, metadata and producer id are not timed
    producer.flush(60)
    begun_cpu, begun, n, count = cpu(), time.monotonic(), 0, len(values)
    while n < records:
        try:
            producer.produce(topic, values[n % count], on_delivery=delivered)
            n += 1
        except BufferError:
            producer.poll(0.01)
        if n & 4095 == 0:
            producer.poll(0)
    left = producer.flush(120)
    took = time.monotonic() - begun
    if left or failures:
        sys.exit(f"{left} left, {len(failures)} failed: {failures[:1]}")
    return {
        "records": records,
        "bytes": records * size,
        "seconds": took,
        "mb_s": records * size / took / 1e6,
        "records_s": records / took,
        "client_cpu_s": cpu() - begun_cpu,
    }


def latency(bootstrap, topic, seconds, rate, linger, acks):
    from confluent_kafka import Producer

    seconds, rate = float(seconds), int(rate)
    values, took = payloads(1024, 2000), []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": acks, "linger.ms": float(linger)})
    producer.list_topics(topic, timeout=30)

    def delivered(error, message):
        if error is not None:
            sys.exit(str(error))
        took.append(message.latency())

    begun_cpu, begun, n, total = cpu(), time.monotonic(), 0, int(seconds * rate)
    while n < total:
        due = min(int((time.monotonic() - begun) * rate) + 1, total)
        while n < due:
            producer.produce(topic, values[n % 2000], on_delivery=delivered)
            n += 1
        producer.poll(0.001)
    producer.flush(60)
    kept = took[len(took) // 10 :]  # the first tenth warms up
    return {
        "records": total,
        "bytes": total * 1024,
        "seconds": time.monotonic() - begun,
        "client_cpu_s": cpu() - begun_cpu,
        **quantiles(kept),
    }


def consume(bootstrap, topic, records):
    from confluent_kafka import Consumer, TopicPartition

    records = int(records)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": 5,
            "queued.max.messages.kbytes": 131072,
            "check.crcs": False,
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    begun_cpu, begun = cpu(), time.monotonic()
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    got = size = 0
    first, last = None, time.monotonic()
    while got < records:
        messages = consumer.consume(10_000, 0.1)
        for m in messages:
            if m.error() is not None:
                sys.exit(str(m.error()))
            size += len(m.value())
        got += len(messages)
        if messages:
            last = time.monotonic()
            first = first or last - begun
        elif time.monotonic() - last > 60:
            sys.exit(f"silent for 60 s after {got} of {records} records")
    took = time.monotonic() - begun
    used = cpu() - begun_cpu
    consumer.close()
    return {
        "records": got,
        "bytes": size,
        "seconds": took,
        "mb_s": size / took / 1e6,
        "records_s": got / took,
        "first_ms": first * 1e3,
        "client_cpu_s": used,
    }


def first(bootstrap, topic, partitions, places):
    """Time from the request to the whole answer, for one fetch of up to 1 MiB at offsets not read before. A broker
    that is not ready for it yet (Kafka just after a restart) is asked again; the wait counts."""
    from rawkafka import Connection

    connection, times, rng, places = Connection(bootstrap), [], random.Random(time.time_ns()), int(places)
    ends = {p: connection.list_offset(topic, p, -1)[2] for p in range(int(partitions))}
    filled = [p for p, end in ends.items() if end > 0]
    for n in range(places):
        partition = filled[n % len(filled)]
        offset = int(ends[partition] * (n + rng.random()) / places)
        begun = time.monotonic()
        error, _, data = connection.fetch(topic, partition, offset)
        while (error or not data) and time.monotonic() - begun < 30:
            time.sleep(0.005)
            error, _, data = connection.fetch(topic, partition, offset)
        times.append(time.monotonic() - begun)
        if error or not data:
            sys.exit(f"fetch at {offset}: error {error}, {len(data)} bytes")
    return {
        "first_ms": times[0] * 1e3,
        "median_ms": sorted(times)[len(times) // 2] * 1e3,
        "max_ms": max(times) * 1e3,
        "all_ms": [round(t * 1e3, 2) for t in times],
    }


def transactions(bootstrap, topic, producers, records, seconds):
    """One transaction after another, of records of 100 B to one partition; a third of the time before it is counted
    warms up."""
    from confluent_kafka import Producer

    if int(producers) != 1:
        sys.exit("librdkafka in Python has one producer: more would wait for each other's interpreter")
    records, seconds, value, took, all_of_them = int(records), float(seconds), b"x" * 100, [], 0
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "librdkafka", "linger.ms": 0})
    producer.init_transactions(60)
    begun_cpu, begun = cpu(), time.monotonic()
    while True:
        sent = time.monotonic()
        if sent >= begun + seconds * 4 / 3:
            break
        producer.begin_transaction()
        for _ in range(records):
            producer.produce(topic, value, partition=0)
        producer.commit_transaction(60)
        all_of_them += 1
        if sent >= begun + seconds / 3:
            took.append(time.monotonic() - sent)
    return {
        "operations": all_of_them,
        "seconds": seconds,
        "per_s": len(took) / seconds,
        "client_cpu_s": cpu() - begun_cpu,
        **quantiles(took),
    }


def main():
    if sys.argv[1] == "payloads":
        Path(sys.argv[2]).write_bytes(b"\n".join(payloads(int(sys.argv[3]), int(sys.argv[4]))) + b"\n")
        return
    commands = {"produce": produce, "latency": latency, "consume": consume, "first": first, "transactions": transactions}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
