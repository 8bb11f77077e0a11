"""confluent-kafka (librdkafka) as producer and replayer of one topic.

    librdkafka.py produce BOOTSTRAP TOPIC COUNT     creates the topic; COUNT records with each codec
    librdkafka.py replay BOOTSTRAP TOPIC
Prints the canonical digest and the number of records as JSON.
"""

import random
import sys

from canon import check, create_topic, digest, replay, result

MIB = 1 << 20


def produce(bootstrap, topic, count):
    from confluent_kafka import Producer

    create_topic(bootstrap, topic, 3, segment_bytes=MIB, retention_ms=-1)
    rng, sent, failures = random.Random(7), [], []
    clock = 1_400_000_000_000
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "compression.type": codec,
                "linger.ms": 5,
            }
        )
        for n in range(count):
            clock += rng.randrange(-50, 200)
            key = None if n % 5 == 0 else f"key-{rng.randrange(100)}".encode()
            value = (
                None
                if n % 11 == 0
                else rng.randbytes(rng.randrange(0, 120)) + b"compressible " * rng.randrange(0, 60)
            )
            headers = [("codec", codec.encode()), ("again", b"1"), ("again", None), ("", b"")][: n % 5]

            def delivered(error, message, key=key, value=value, headers=headers, clock=clock):
                if error is not None:
                    failures.append(str(error))
                else:
                    sent.append((message.partition(), message.offset(), clock, key, value, headers))

            while True:
                try:
                    producer.produce(
                        topic, value, key, timestamp=clock, headers=headers, on_delivery=delivered
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        check(producer.flush(200) == 0, f"{codec}: not everything was delivered in 200 s")
    check(not failures, f"{len(failures)} records failed: {failures[:1]}")
    result(digest=digest(sent), records=len(sent))


if sys.argv[1] == "produce":
    produce(sys.argv[2], sys.argv[3], int(sys.argv[4]))
else:
    found = replay(sys.argv[2], sys.argv[3])
    result(digest=digest(found), records=len(found))
