"""Records with a time to live, by confluent-kafka (librdkafka).

    ttl.py produce BOOTSTRAP TOPIC COUNT     creates the topic; stretches of COUNT records that have expired and that live
    ttl.py replay BOOTSTRAP TOPIC            what a consumer gets to see, to the end of every partition
Prints the canonical digest and the number of the records that live as JSON.
"""

import random
import sys
import time

from canon import check, create_topic, digest, replay, result

HOUR = 3_600_000
HEADER = "highwater-ttl-ms"
# Age of a stretch's records and their header: by the topic an hour is the end of them.
HIDDEN = [(2 * HOUR, None), (10_000, b"1"), (2 * HOUR, b"next week")]
LIVING = [(0, None), (2 * HOUR, b"-1"), (2 * HOUR, str(3 * HOUR).encode())]
# The beginning and the end of each codec's records are hidden; the last stretch of all is.
STRETCHES = [HIDDEN[0], LIVING[0], HIDDEN[1], HIDDEN[0], LIVING[1], HIDDEN[2], LIVING[2], HIDDEN[0]]


def produce(bootstrap, topic, count):
    from confluent_kafka import Producer

    create_topic(bootstrap, topic, 3, segment_bytes=1 << 20, retention_ms=-1, highwater_ttl_ms=HOUR)
    rng, sent, failures = random.Random(21), [], []
    now = int(time.time() * 1000)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 5})
        for age, header in STRETCHES:
            for n in range(count):
                key = f"key-{n}".encode()
                value = rng.randbytes(60) + b"compressible " * rng.randrange(0, 40)
                headers = [] if header is None else [("first", b"1"), (HEADER, header)]
                lives = (age, header) in LIVING

                def delivered(error, message, key=key, value=value, headers=headers, at=now - age, lives=lives):
                    if error is not None:
                        failures.append(str(error))
                    elif lives:
                        sent.append((message.partition(), message.offset(), at, key, value, headers))

                while True:
                    try:
                        producer.produce(
                            topic,
                            value,
                            key,
                            partition=n % 3,
                            timestamp=now - age,
                            headers=headers,
                            on_delivery=delivered,
                        )
                        break
                    except BufferError:
                        producer.poll(0.1)
                producer.poll(0)
        check(producer.flush(200) == 0, f"{codec}: not everything was delivered in 200 s")
    check(not failures, f"{len(failures)} records failed: {failures[:1]}")
    result(digest=digest(sent), records=len(sent))


def main():
    what, bootstrap, topic, *rest = sys.argv[1:]
    if what == "produce":
        return produce(bootstrap, topic, int(rest[0]))
    found = replay(bootstrap, topic, gaps=True)
    result(digest=digest(found), records=len(found))


main()
