"""A steady idempotent producer that survives broker restarts, and the check that nothing was lost or doubled.

    load.py run BOOTSTRAP TOPIC LEDGER RATE_MB_S [CODEC]   until standard input ends; then flushes and reports
    load.py verify BOOTSTRAP TOPIC LEDGER                  every acknowledged record once, at its offset, intact

The ledger has (partition u32, offset u64, id u64) per acknowledged record; the offset is all ones where it was
acknowledged as a duplicate of what is there already, without a place. A record's value is its id and bytes
that follow from it; its size varies about 1 KiB.
"""

import random
import struct
import sys
import threading
import time

from canon import check, replaying, result

ENTRY = struct.Struct("<IQQ")
NOWHERE = 2**64 - 1
SIZE = 1 << 20
BLOCK = random.Random(3).randbytes(SIZE // 2) + b"compressible, " * (SIZE // 28)


def value(number):
    at, size = number * 7919 % (len(BLOCK) - 2100), 900 + number * 31 % 250
    return struct.pack("<Q", number) + BLOCK[at : at + size]


def run(bootstrap, topic, ledger, rate_mb_s, codec="none"):
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "compression.type": codec,
            "delivery.timeout.ms": 300000,
            "retries": 1000000,
            "retry.backoff.ms": 50,
            "retry.backoff.max.ms": 250,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 250,
            "socket.timeout.ms": 10000,
            "log_level": 2,
            "queue.buffering.max.messages": 500000,
            "queue.buffering.max.kbytes": 1000000,
        }
    )
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    out, latencies, failures, number, acked = open(ledger, "ab"), [], [], 0, 0
    fatal = []

    def callback(n, sent):
        def delivered(error, message):
            nonlocal acked
            if error is not None:
                failures.append(f"{n}: {error}")
                return
            offset = message.offset() if message.offset() is not None and message.offset() >= 0 else NOWHERE
            out.write(ENTRY.pack(message.partition(), offset, n))
            acked += 1
            latencies.append((sent, time.monotonic() - sent))

        return delivered

    per_tick, tick = rate_mb_s * 1e6 / 1033 / 100, 0.01
    begun = time.monotonic()
    while not stop.is_set():
        due = int((time.monotonic() - begun) / tick * per_tick)
        while number < due and not stop.is_set():
            try:
                producer.produce(
                    topic,
                    value(number),
                    b"%d" % (number % 1000),
                    on_delivery=callback(number, time.monotonic()),
                )
                number += 1
            except BufferError:
                producer.poll(0.05)
                due = number
            if number % 200 == 0:
                producer.poll(0)
        producer.poll(tick)
        check(not failures, f"a record was given up: {failures[:1]}")
    left = producer.flush(200)
    out.close()
    check(
        left == 0 and not failures and not fatal, f"{left} records without an answer, failures {failures[:1]}"
    )
    worst = {}
    for sent, took in latencies:
        second = int(sent - begun)
        worst[second] = max(worst.get(second, 0), took)
    ordered = sorted(took for _, took in latencies) or [0.0]
    result(
        acked=acked,
        seconds=round(time.monotonic() - begun, 1),
        p50_ms=round(ordered[len(ordered) // 2] * 1e3, 1),
        p99_ms=round(ordered[len(ordered) * 99 // 100] * 1e3, 1),
        max_ms=round(ordered[-1] * 1e3, 1),
        worst_ms_by_second=[round(worst.get(s, 0) * 1e3) for s in range(int(max(worst, default=0)) + 1)],
    )


def verify(bootstrap, topic, ledger):
    acked, somewhere = {}, {}
    with open(ledger, "rb") as source:
        for partition, offset, number in ENTRY.iter_unpack(source.read()):
            if offset == NOWHERE:
                somewhere[number] = partition
                continue
            check(
                (partition, offset) not in acked,
                f"two acknowledgements for offset {offset} of partition {partition}",
            )
            acked[partition, offset] = number
    seen, unknown = set(), 0
    for partition, offset, _, _, got, _ in replaying(bootstrap, topic):
        number = struct.unpack("<Q", got[:8])[0]
        check(
            got == value(number),
            f"{topic}-{partition} at {offset}: the value of record {number} is not what was sent",
        )
        check(number not in seen, f"{topic}-{partition} at {offset}: record {number} a second time")
        seen.add(number)
        wanted = acked.pop((partition, offset), None)
        place = somewhere.pop(number, None)
        check(place in (None, partition), f"{topic}-{partition} at {offset}: record {number} belongs to {place}")
        unknown += wanted is None and place is None
        check(
            wanted in (None, number),
            f"{topic}-{partition} at {offset}: record {number}, acknowledged was {wanted}",
        )
    check(not acked, f"{len(acked)} acknowledged records are gone, first {sorted(acked.items())[:3]}")
    check(not somewhere, f"{len(somewhere)} acknowledged records are gone, first {sorted(somewhere.items())[:3]}")
    result(records=len(seen), without_acknowledgement=unknown)


if sys.argv[1] == "run":
    run(sys.argv[2], sys.argv[3], sys.argv[4], float(sys.argv[5]), *sys.argv[6:7])
else:
    verify(*sys.argv[2:5])
