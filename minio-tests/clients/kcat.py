"""kcat as producer and replayer: it speaks through its own, older librdkafka and sends old versions.

    kcat.py produce BOOTSTRAP TOPIC COUNT    creates the topic; COUNT lines with each codec, keys and a header
    kcat.py replay BOOTSTRAP TOPIC           digest over (partition, offset, timestamp, key, value)
Offsets of what it sends are not told by kcat: `produce` replays by kcat at once, checks that every line came
back exactly once, and prints that digest.
"""

import subprocess
import sys
import tempfile
from collections import Counter

from canon import check, create_topic, digest, partitions_of, result

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def kcat(*arguments):
    done = subprocess.run(["kcat", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    check(
        done.returncode == 0,
        f"kcat {' '.join(arguments)}: exit {done.returncode}: {done.stderr.decode()[-500:]}",
    )
    return done.stdout


def replay(bootstrap, topic):
    records = []
    for partition in partitions_of(bootstrap, topic):
        out = kcat(
            "-C",
            "-q",
            "-e",
            "-b",
            bootstrap,
            "-t",
            topic,
            "-p",
            str(partition),
            "-o",
            "beginning",
            "-X",
            "check.crcs=true",
            "-f",
            "%p %o %T %K %S\\n%k%s\\n",
        )
        at = 0
        while at < len(out):
            end = out.index(b"\n", at)
            p, offset, timestamp, key_size, value_size = (int(x) for x in out[at:end].split())
            at = end + 1
            key = None if key_size < 0 else out[at : at + key_size]
            at += max(key_size, 0)
            value = None if value_size < 0 else out[at : at + value_size]
            at += max(value_size, 0) + 1
            records.append((p, offset, timestamp, key, value, []))
    return records


def produce(bootstrap, topic, count):
    create_topic(bootstrap, topic, 2, segment_bytes=1 << 20, retention_ms=-1)
    sent = Counter()
    for codec in CODECS:
        with tempfile.NamedTemporaryFile("wb", suffix=".txt") as lines:
            for n in range(count):
                key, value = f"{codec}-{n % 50}".encode(), f"{codec} line {n} ".encode() * (1 + n % 40)
                sent[key, value] += 1
                lines.write(key + b"\t" + value + b"\n")
            lines.flush()
            kcat(
                "-P",
                "-b",
                bootstrap,
                "-t",
                topic,
                "-z",
                codec,
                "-K",
                "\t",
                "-H",
                "from=kcat",
                "-l",
                lines.name,
            )
    records = replay(bootstrap, topic)
    check(Counter((r[3], r[4]) for r in records) == sent, "kcat did not get back exactly what it sent")
    result(digest=digest(records), records=len(records))


if sys.argv[1] == "produce":
    produce(sys.argv[2], sys.argv[3], int(sys.argv[4]))
else:
    found = replay(sys.argv[2], sys.argv[3])
    result(digest=digest(found), records=len(found))
