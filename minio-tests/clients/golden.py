"""Values that must survive exactly: a table of awkward records, produced raw, read back raw.

    golden.py produce BOOTSTRAP LEDGER [plain]     creates the topics, sends every case, checks every refusal
    golden.py check BOOTSTRAP LEDGER               replays every topic and compares with the ledger
Topics: golden-bytes, golden-utf8, golden-json, golden-append (log append time), golden-many (10,000 records a
batch). `plain` leaves out what only Highwater has, so that the table itself can be tried on Apache Kafka.
"""

import pickle
import sys
import time

from canon import check, create_topic, result
from rawkafka import CODECS, Connection, batch, records_in

I64_MAX = 2**63 - 1
NOW = int(time.time() * 1000)
MAX_BATCH = 300_000
INVALID_RECORD, CORRUPT, TOO_LARGE = 87, 2, 10

# name: (timestamp, key, value, headers)
CASES = {
    "plain": (NOW, b"key", b"value", []),
    "null key": (NOW, None, b"value", []),
    "null value": (NOW, b"key", None, []),
    "both null": (NOW, None, None, []),
    "empty key": (NOW, b"", b"value", []),
    "empty value": (NOW, b"key", b"", []),
    "one byte": (NOW, None, b"x", []),
    "bytes that are not UTF-8": (NOW, b"\xff\xfe", b"\x80\x00\xff", []),
    "zeros": (NOW, b"\x00", b"\x00" * 1000, []),
    "repeated header": (NOW, b"k", b"v", [(b"h", b"1"), (b"h", b"2"), (b"h", b"1")]),
    "header key not UTF-8": (NOW, b"k", b"v", [(b"\xff\x80", b"1")]),
    "null header value": (NOW, b"k", b"v", [(b"h", None), (b"i", b"")]),
    "empty header key": (NOW, b"k", b"v", [(b"", b"x")]),
    "many headers": (NOW, b"k", b"v", [(b"h%d" % n, b"v" * n) for n in range(200)]),
    "headers on a tombstone": (NOW, b"k", None, [(b"why", b"deleted")]),
    "timestamp -1": (-1, b"k", b"no timestamp", []),
    "timestamp 0": (0, b"k", b"epoch", []),
    "timestamp 1": (1, b"k", b"v", []),
    "timestamp i64 max": (I64_MAX, b"k", b"v", []),
    "timestamp past microseconds": (I64_MAX // 1000 + 1, b"k", b"v", []),
    "timestamp at the last microsecond": (I64_MAX // 1000, b"k", b"v", []),
}
TEXTS = {
    "ascii": (NOW, b"\xff", b"plain text", []),
    "two bytes and four": (NOW, None, "æøå 🦀".encode(), []),
    "empty": (NOW, None, b"", []),
    "tombstone": (NOW, b"k", None, []),
    "nul": (NOW, None, b"a\x00b", []),
}
JSONS = {
    "object": (NOW, b"\xff", b'{"a": 1, "a": 2}', []),
    "spaces and order kept": (NOW, None, b' { "b" : 1e400 , "a":"\\u00e9" } ', []),
    "number": (NOW, None, b"-0.0", []),
    "null literal": (NOW, None, b"null", []),
    "text": (NOW, None, '"æ"'.encode(), []),
    "tombstone": (NOW, b"k", None, []),
}
BAD_TEXT = (b"\xff", b"\xed\xa0\x80", b"ok\xc3")
BAD_JSON = (b"{bad", b"", b"{} {}", b"\xff", b"nul", b"[1,]", b'{"a":}', b"NaN", b"'a'")


class Ledger:
    """topic -> what must be read back, in offset order."""

    def __init__(self, bootstrap):
        self.connection, self.rows = Connection(bootstrap), {}

    def send(self, topic, records, codec):
        rows = self.rows.setdefault(topic, [])
        error, base, append = self.connection.produce(topic, 0, batch(records, codec))
        check(error == 0, f"{topic}: error {error} for codec {codec}, {records[0]!r:.200}")
        check(base == len(rows), f"{topic}: base offset {base}, not {len(rows)}")
        for timestamp, key, value, headers in records:
            kind = 1 if append >= 0 else 0
            rows.append((len(rows), append if kind else timestamp, kind, key, value, headers))

    def refuse(self, topic, data, error):
        before = self.connection.list_offset(topic, 0, -1)
        got = self.connection.produce(topic, 0, data)[0]
        check(got == error, f"{topic}: error {got}, wanted {error} for {data[61:]!r:.120}")
        check(self.connection.list_offset(topic, 0, -1) == before, f"{topic}: a refused batch moved the end")


def produce(bootstrap, path, plain):
    config = {"segment_bytes": 1 << 20, "retention_ms": -1, "message_timestamp_after_max_ms": I64_MAX}
    create_topic(bootstrap, "golden-bytes", 1, max_message_bytes=MAX_BATCH, **config)
    create_topic(bootstrap, "golden-append", 1, message_timestamp_type="LogAppendTime", **config)
    create_topic(bootstrap, "golden-many", 1, **config)
    ledger = Ledger(bootstrap)
    together = [r for r in CASES.values() if -1 <= r[0] <= NOW]
    for codec in CODECS.values():
        for case in CASES.values():
            ledger.send("golden-bytes", [case], codec)
            ledger.send("golden-append", [case], codec)
        ledger.send("golden-bytes", together, codec)
        ledger.send("golden-append", together, codec)
        ledger.send("golden-many", [(NOW + n, b"%d" % n, b"v%d" % (n * n), []) for n in range(10_000)], codec)
    at_limit = (
        MAX_BATCH - len(batch([(NOW, None, b"", [])])) - 4
    )  # both lengths, of value and record, take 3 bytes
    full = batch([(NOW, None, b"m" * at_limit, [])])
    check(len(full) == MAX_BATCH, f"the largest batch has {len(full)} bytes, not {MAX_BATCH}")
    ledger.send("golden-bytes", [(NOW, None, b"m" * at_limit, [])], 0)
    ledger.refuse("golden-bytes", batch([(NOW, None, b"m" * (at_limit + 1), [])]), TOO_LARGE)
    ledger.refuse("golden-bytes", batch([CASES["plain"]], crc=12345), CORRUPT)
    if not plain:
        for kind, cases, bad in (("utf8", TEXTS, BAD_TEXT), ("json", JSONS, BAD_JSON)):
            topic = f"golden-{kind}"
            create_topic(bootstrap, topic, 1, highwater_value_format=kind, **config)
            for codec in CODECS.values():
                for case in cases.values():
                    ledger.send(topic, [case], codec)
                ledger.send(topic, list(cases.values()), codec)
                for value in bad:
                    ledger.refuse(topic, batch([(NOW, None, value, [])], codec), INVALID_RECORD)
                    mixed = list(cases.values()) + [(NOW, None, value, [])] + list(cases.values())
                    ledger.refuse(topic, batch(mixed, codec), INVALID_RECORD)
    with open(path, "wb") as out:
        pickle.dump(ledger.rows, out)
    result(topics={topic: len(rows) for topic, rows in ledger.rows.items()})


def verify(bootstrap, path):
    with open(path, "rb") as source:
        ledger = pickle.load(source)
    connection = Connection(bootstrap)
    for topic, wanted in ledger.items():
        got = connection.read_all(topic, 0)
        for a, b in zip(got, wanted):
            check(a == b, f"{topic}: got {a!r:.300}, wanted {b!r:.300}")
        check(len(got) == len(wanted), f"{topic}: {len(got)} records, wanted {len(wanted)}")
        for start in range(0, len(wanted), max(len(wanted) // 7, 1)):
            error, _, data = connection.fetch(topic, 0, start)
            check(error == 0, f"{topic} from {start}: error {error}")
            first = next(found for found in records_in(data) if found[0] >= start)
            check(first == wanted[start], f"{topic} from {start}: got {first!r:.200}")
    result(topics={topic: len(rows) for topic, rows in ledger.items()})


if sys.argv[1] == "produce":
    produce(sys.argv[2], sys.argv[3], "plain" in sys.argv[4:])
else:
    verify(sys.argv[2], sys.argv[3])
