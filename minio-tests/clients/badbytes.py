"""Bytes that no client should send. Each gets Kafka's own error or a closed connection; others notice nothing.

    badbytes.py BOOTSTRAP [PID]     PID: the broker's, whose memory is watched

The expectations were tried on Apache Kafka 4.3.1: it agrees, but for the bytes behind a batch, which it ignores,
for `crowd`, where it allocates every frame that claims 50 MB and its heap runs out, and for the bomb with a lying
count, which ends it.
"""

import os
import re
import socket
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import rawkafka as raw
from canon import check, create_topic, result

CLOSED = "closed"
INVALID_TOPIC, UNSUPPORTED_VERSION, INVALID_REQUEST = 17, 35, 42
CORRUPT, INVALID_RECORD, TOO_LARGE, INVALID_TIMESTAMP, UNKNOWN = 2, 87, 10, 32, -1
NOW = int(time.time() * 1000)
RECORD = (NOW, b"k", b"v", [])
GROWTH_MAX_MIB = 160
# A produce that waits for other connections waits until they are closed for their silence.
STUCK_SECONDS = 20


class Case:
    bootstrap = pid = None
    done = 0


def memory_mib():
    if Case.pid is None:
        return 0
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{Case.pid}/status").read_text()).group(1)) / 1024


def healthy(name):
    """Another client's whole conversation: metadata, produce, fetch."""
    c = raw.Connection(Case.bootstrap, 120)
    error, base, _ = c.produce("others", 0, raw.batch([RECORD]))
    check(error == 0, f"after {name!r}: another client's produce got error {error}")
    error, high, data = c.fetch("others", 0, base)
    check(error == 0 and high > base, f"after {name!r}: another client's fetch got error {error}, end {high}")
    check(next(raw.records_in(data))[0] == base, f"after {name!r}: another client's record is not there")
    c.close()


def frame(body):
    return struct.pack(">i", len(body)) + body


def request(key, version, body, flexible=False):
    return frame(
        struct.pack(">hhi", key, version, 1) + raw.text("bad") + (b"\x00" if flexible else b"") + body
    )


def closes(name, data, seconds=60, or_answers=False):
    """Sent on a new connection: the broker must close it without a word (or answer, where Kafka does)."""
    c = raw.Connection(Case.bootstrap)
    try:
        c.send(data)
    except ConnectionError:
        pass
    closed = c.closed_within(seconds) if not or_answers else bool(c.read(4)) if answered(c, seconds) else True
    check(closed, f"{name}: the connection was not closed within {seconds} s")
    c.close()
    healthy(name)
    Case.done += 1


def answered(c, seconds):
    """True if something comes, False if the connection closes; fails on silence."""
    c.socket.settimeout(seconds)
    try:
        return c.socket.recv(1, socket.MSG_PEEK) != b""
    except ConnectionError:
        return False
    except TimeoutError:
        check(False, f"neither an answer nor a close within {seconds} s")


def refused(name, data, wanted, topic="bad"):
    """A produce of `data`: the error must be one of `wanted`, or the connection closed if that is in it."""
    c = raw.Connection(Case.bootstrap, 60)
    before = c.list_offset(topic, 0, -1)[2]
    try:
        got = c.produce(topic, 0, data)[0]
    except ConnectionError:
        got, c = CLOSED, raw.Connection(Case.bootstrap)
    check(got in wanted, f"{name}: got {got}, wanted one of {wanted}")
    check(c.list_offset(topic, 0, -1)[2] == before, f"{name}: something was appended")
    c.close()
    healthy(name)
    Case.done += 1


def frames():
    closes("HTTP", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n")
    closes("TLS hello", bytes.fromhex("16030100c8010000c40303") + os.urandom(200))
    closes("SSH", b"SSH-2.0-OpenSSH_9.0\r\n")
    closes("negative frame size", struct.pack(">i", -1) + b"x" * 100)
    closes("least frame size", struct.pack(">i", -(2**31)) + b"x" * 100)
    closes("frame over 100 MiB", struct.pack(">i", 100 * 1024 * 1024 + 1) + b"x" * 100)
    closes("largest frame", struct.pack(">i", 2**31 - 1) + b"x" * 100)
    closes("random bytes", b"\xde\xad\xbe\xef" * 64)
    closes("unknown API key", request(9999, 0, b""))
    closes("negative API key", request(-5, 0, b""))
    closes("unknown version of Metadata", request(3, 99, b""))
    closes("negative version of Fetch", request(1, -1, b""))
    closes("header cut off", frame(b"\x00\x03\x00"))
    closes("client id longer than the frame", frame(struct.pack(">hhih", 3, 1, 1, 30000) + b"x"))
    for count in (0x7FFFFFFF, 0x10000, -2, -(2**31)):
        closes(
            f"Metadata v1 with {count} topics", request(3, 1, struct.pack(">i", count)), or_answers=count < 0
        )
    closes(
        "Metadata v9 with a huge compact array", request(3, 9, b"\xff\xff\xff\xff\x0f" + b"\x01\x00", True)
    )
    closes("varint without end", request(3, 9, b"\xff" * 12, True))
    closes(
        "tagged fields without end",
        request(3, 12, b"\x01\x01\x00\xff\xff\xff\xff\x0f", True),
        or_answers=True,
    )
    closes(
        "Produce v7 that claims 2^31-1 topics", request(0, 7, struct.pack(">hhii", -1, -1, 1000, 0x7FFFFFFF))
    )
    closes(
        "Produce v7 with records longer than the frame",
        request(
            0,
            7,
            struct.pack(">hhii", -1, -1, 1000, 1)
            + raw.text("bad")
            + struct.pack(">iii", 1, 0, 0x7FFFFFFF)
            + b"x",
        ),
    )
    closes("Fetch v4 cut off", request(1, 4, struct.pack(">iiii", -1, 100, 1, 1 << 20)))
    closes("CreateTopics v2 that claims 2^31-1 topics", request(19, 2, struct.pack(">i", 0x7FFFFFFF)))
    closes("DescribeConfigs v1 that claims 2^31-1 resources", request(32, 1, struct.pack(">i", 0x7FFFFFFF)))

    half = raw.Connection(Case.bootstrap)
    half.send(struct.pack(">i", 1000) + b"x" * 10)
    half.close()
    healthy("frame cut off by a close")

    c = raw.Connection(Case.bootstrap)
    # The byte ends the flexible header. KIP-511: answered in version 0 so that the client can learn the range.
    r = c.call(18, 99, b"\x00")
    check(r.num("h") == UNSUPPORTED_VERSION, "ApiVersions v99 is not answered by UNSUPPORTED_VERSION")
    c.close()
    Case.done += 2


def records():
    good = raw.batch([RECORD] * 3)
    flipped = good[:70] + bytes([good[70] ^ 1]) + good[71:]
    refused("flipped bit", flipped, {CORRUPT})
    refused("wrong checksum", raw.batch([RECORD], crc=7), {CORRUPT})
    refused("magic 3", raw.batch([RECORD], magic=3), {INVALID_RECORD, CORRUPT, 76, UNKNOWN})
    refused("magic 1", raw.batch([RECORD], magic=1), {INVALID_RECORD, CORRUPT, 76, UNKNOWN})
    refused("no batch at all", b"", {INVALID_RECORD, CORRUPT, UNKNOWN})
    refused("header cut off", good[:40], {INVALID_RECORD, CORRUPT, UNKNOWN})
    refused("batch cut off", good[:-1], {INVALID_RECORD, CORRUPT, UNKNOWN})
    refused("two batches", good + good, {INVALID_RECORD})
    refused("bytes behind the batch", good + b"\x00" * 7, {INVALID_RECORD, CORRUPT, UNKNOWN})
    refused("length too small", raw.batch([RECORD], length=10), {INVALID_RECORD, CORRUPT, UNKNOWN})
    refused("length negative", raw.batch([RECORD], length=-1), {INVALID_RECORD, CORRUPT, UNKNOWN})
    refused(
        "length too large",
        raw.batch([RECORD], length=2**31 - 1),
        {INVALID_RECORD, CORRUPT, UNKNOWN, TOO_LARGE},
    )
    for count in (0, 2, 100, -1, 2**31 - 1):
        refused(
            f"count {count} for one record",
            raw.batch([RECORD], count=count, last_offset_delta=count - 1),
            {INVALID_RECORD, CORRUPT, UNKNOWN},
        )
        for name in ("gzip", "lz4", "zstd"):
            refused(
                f"count {count} for one record, {name}",
                raw.batch([RECORD], raw.CODECS[name], count=count, last_offset_delta=count - 1),
                {INVALID_RECORD, CORRUPT, UNKNOWN},
            )
    refused("last offset delta 7 for one record", raw.batch([RECORD], last_offset_delta=7), {INVALID_RECORD})
    refused("control batch", raw.batch([RECORD], attributes=0x20), {INVALID_RECORD})
    refused("codec 7", raw.batch([RECORD], attributes=7), {INVALID_RECORD, CORRUPT, UNKNOWN, 76})
    refused(
        "producer without sequence",
        raw.batch([RECORD], producer=(77, 0, -1)),
        {INVALID_RECORD, UNKNOWN, CORRUPT},
    )
    refused("timestamp in the far future", raw.batch([(NOW + 10**9, None, b"v", [])]), {INVALID_TIMESTAMP})
    refused("batch over max.message.bytes", raw.batch([(NOW, None, os.urandom(1_048_600), [])]), {TOO_LARGE})
    refused(
        "records that are noise",
        raw.batch([RECORD], section=os.urandom(300)),
        {INVALID_RECORD, CORRUPT, UNKNOWN},
    )
    for codec in (raw.GZIP, raw.SNAPPY, raw.LZ4, raw.ZSTD):
        refused(
            f"noise as codec {codec}",
            raw.batch([RECORD], codec, section=os.urandom(300)),
            {INVALID_RECORD, CORRUPT, UNKNOWN, TOO_LARGE},
        )  # noise may claim any size
    refused(
        "no key on a compacted topic", raw.batch([(NOW, None, b"v", [])]), {INVALID_RECORD}, topic="compacted"
    )


def bombs():
    """Half a GiB of zeros in some hundred KiB or less: refused, or stored as sent, but never held in memory."""
    before = memory_mib()
    packer, parts = zlib.compressobj(9, zlib.DEFLATED, 31), []
    for _ in range(512):
        parts.append(packer.compress(bytes(1 << 20)))
    gzip = b"".join(parts) + packer.flush()
    import pyarrow

    zstd = pyarrow.Codec("zstd").compress(bytes(512 << 20)).to_pybytes()
    for name, codec, section in (("gzip", raw.GZIP, gzip), ("zstd", raw.ZSTD, zstd)):
        refused(
            f"{name} bomb",
            raw.batch([RECORD], codec, section=section),
            {INVALID_RECORD, CORRUPT, TOO_LARGE, UNKNOWN},
        )
        refused(
            f"{name} bomb, count 2^31-1",
            raw.batch([RECORD], codec, section=section, count=2**31 - 1, last_offset_delta=2**31 - 2),
            {INVALID_RECORD, CORRUPT, TOO_LARGE, UNKNOWN},
        )
    grown = memory_mib() - before
    check(grown < GROWTH_MAX_MIB, f"bombs: memory grew by {grown:.0f} MiB")


def names():
    c = raw.Connection(Case.bootstrap)
    for name in ("..", ".", "a/b", "", "x" * 250, "a b", "a\x00b", "ü", "../../etc"):
        r = c.call(3, 4, struct.pack(">i", 1) + raw.text(name) + b"\x01")  # auto-creation allowed
        r.num("i")
        for _ in range(r.num("i")):
            r.num("i"), r.text(), r.num("i"), r.text()
        r.text(), r.num("i"), r.num("i")
        got = r.num("h")
        check(
            got == INVALID_TOPIC, f"Metadata with auto-creation of {name!r}: error {got}, not {INVALID_TOPIC}"
        )
        body = (
            struct.pack(">i", 1)
            + raw.text(name)
            + struct.pack(">ihii", 1, 1, 0, 0)
            + struct.pack(">i?", 10000, False)
        )
        r = c.call(19, 2, body)
        r.num("i"), r.num("i"), r.text()
        got = r.num("h")
        check(got == INVALID_TOPIC, f"CreateTopics of {name!r}: error {got}, not {INVALID_TOPIC}")
        Case.done += 2
    c.close()
    healthy("bad topic names")


def crowd():
    """1,000 connections: idle, stuck within a frame, or sending one byte a second, while another client works."""
    before, open_connections = memory_mib(), []
    for n in range(1000):
        c = raw.Connection(Case.bootstrap)
        if n % 3 == 1:
            c.send(struct.pack(">i", 50_000_000) + b"\x00\x03")  # claims 50 MB, sends two bytes
        if n % 3 == 2:
            c.send(struct.pack(">i", 10_000) + b"\x00\x03")  # the rest comes a byte a second
        open_connections.append(c)
    stop = threading.Event()

    def drip():
        while not stop.is_set():
            for c in open_connections[2::3]:
                try:
                    c.send(b"\x00")
                except OSError:
                    pass
            stop.wait(1)

    dripping = threading.Thread(target=drip)
    dripping.start()
    worst, c = 0.0, raw.Connection(Case.bootstrap, 120)
    for _ in range(200):
        started = time.monotonic()
        check(c.produce("others", 0, raw.batch([RECORD]))[0] == 0, "produce beside 1,000 connections failed")
        worst = max(worst, time.monotonic() - started)
        time.sleep(0.02)
    c.close()
    grown = memory_mib() - before
    stop.set()
    dripping.join()
    for c in open_connections:
        c.close()
    check(worst < STUCK_SECONDS, f"beside 1,000 idle and slow connections a produce took {worst:.2f} s")
    check(grown < GROWTH_MAX_MIB, f"1,000 connections: memory grew by {grown:.0f} MiB")
    healthy("1,000 connections")
    Case.done += 1
    return round(worst * 1e3, 1), round(grown, 1)


def deaf():
    """Requests without end, answers never read: the broker must stop reading, not buffer answers for ever."""
    before = memory_mib()
    fetch = struct.pack(">iiiibii", -1, 0, 0, 2**31 - 1, 0, 0, -1) + struct.pack(">i", 1) + raw.text("big")
    fetch += (
        struct.pack(">i", 1)
        + struct.pack(">iiqqi", 0, -1, 0, -1, 2**31 - 1)
        + struct.pack(">i", 0)
        + raw.text("")
    )
    sockets = []
    for _ in range(8):
        c = raw.Connection(Case.bootstrap)
        c.socket.settimeout(1)
        try:
            for _ in range(20_000):
                c.send(request(1, 11, fetch))
        except (TimeoutError, ConnectionError, socket.timeout):
            pass
        sockets.append(c)
    time.sleep(1)
    grown = memory_mib() - before
    healthy("clients that never read")
    for c in sockets:
        c.close()
    check(grown < 600, f"clients that never read: memory grew by {grown:.0f} MiB")
    Case.done += 1
    return round(grown, 1)


def main():
    Case.bootstrap = sys.argv[1]
    Case.pid = int(sys.argv[2]) if len(sys.argv) > 2 else None
    create_topic(Case.bootstrap, "others", 1)
    create_topic(Case.bootstrap, "bad", 1)
    create_topic(Case.bootstrap, "big", 1)
    create_topic(Case.bootstrap, "compacted", 1, cleanup_policy="compact", remote_storage_enable="false")
    c = raw.Connection(Case.bootstrap)
    for _ in range(20):
        check(c.produce("big", 0, raw.batch([(NOW, None, b"x" * 900_000, [])]))[0] == 0, "produce to big")
    healthy("start")
    before = memory_mib()
    parts = sys.argv[3:] or ["frames", "records", "bombs", "names", "crowd", "deaf"]
    told = {}
    for part in parts:
        started = time.monotonic()
        told[part] = globals()[part]()
        print(f"  {part}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    result(
        cases=Case.done,
        memory_grew_mib=round(memory_mib() - before, 1),
        **{k: v for k, v in told.items() if v},
    )


if __name__ == "__main__":
    main()
