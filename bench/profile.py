#!/usr/bin/env python3
"""Where the CPU of the broker goes in one produce case of compare.py: the same load, `perf record` on the broker.

    profile.py SIZE ACKS CODEC CLIENT [RECORDS] [--binary PATH] [--no-perf]        e.g. 100 all none librdkafka

Prints requests, CPU per request and per GB, system calls' and functions' shares. CLIENT is librdkafka or java. The
kernel's side of a share is counted under the system call that asked for it. Figures for people; nothing asserts them.
"""

import argparse
import collections
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402
import servers  # noqa: E402

# A sample belongs to the first group whose pattern occurs in its call chain.
GROUPS = [
    ("pwritev: copy into the page cache", r"copy_folio_from_iter[\s\S]*pwritev"),
    ("pwritev: pages, buffer heads, blocks, times", r"pwritev"),
    ("recvfrom: copy out of the socket", r"_copy_to_iter[\s\S]*recvfrom"),
    ("recvfrom: the rest", r"recvfrom"),
    ("sendmsg, with the client's side of loopback", r"sys_sendmsg"),
    ("epoll_wait, sleeping and waking", r"epoll_wait"),
    ("other system calls and interrupts", r"entry_SYSCALL|asm_sysvec|asm_common|asm_exc"),
    ("decompression", r"codec::|lz4|ZSTD|snap::|inflate"),
    ("checksum", r"crc32|crc_fast"),
    ("checking records", r"check_records|unusual_record"),
    ("the rest of the broker and its libraries", r"."),
]


class Highwater(servers.Highwater):
    chosen = None

    def start(self):
        self.binary = self.chosen or self.binary
        super().start()

    def produce_requests(self):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}/metrics").read().decode()
        found = re.search(r'^highwater_requests_total\{api="Produce"\} (\d+)', text, re.M)
        return int(found[1]) if found else 0


def shares(path):
    text = subprocess.run(
        ["perf", "script", "-i", path, "-F", "comm,ip,sym"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout
    samples = [s for s in text.split("\n\n") if s.strip()]
    groups, leaves = collections.Counter(), collections.defaultdict(collections.Counter)
    for sample in samples:
        _, *chain = sample.strip().split("\n")
        body = "\n".join(chain)
        name = next((name for name, pattern in GROUPS if re.search(pattern, body)), "?")
        groups[name] += 1
        if chain:
            leaves[name][re.sub(r"^\s*[0-9a-f]+ ", "", chain[0])] += 1
    print(f"{len(samples)} samples")
    for name, count in groups.most_common():
        most = ", ".join(f"{leaf[:50]} {n / len(samples):.1%}" for leaf, n in leaves[name].most_common(3))
        print(f"{count / len(samples):6.1%}  {name:<46} {most}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", type=int)
    parser.add_argument("acks")
    parser.add_argument("codec")
    parser.add_argument("client", choices=("librdkafka", "java"))
    parser.add_argument("records", type=int, nargs="?", default=3_000_000)
    parser.add_argument("--binary", help="another build of the broker")
    parser.add_argument("--no-perf", action="store_true", help="only the CPU per request, undisturbed")
    o = parser.parse_args()
    Highwater.chosen = o.binary
    bench = compare.Bench.__new__(compare.Bench)  # for its clients; makes no directory
    with tempfile.TemporaryDirectory(dir=servers.ROOT / "target") as work:
        server = Highwater(work)
        try:
            bench.create(server, "warm-up")
            bench.client("produce", server.bootstrap, "warm-up", 100_000, 1024, "all", "none")
            bench.create(server, "produce")
            recorded, perf = f"{work}/perf.data", None
            if not o.no_perf:
                command = ["perf", "record", "-q", "-F", "2500", "-e", "cpu-clock", "-g", "-o", recorded]
                perf = subprocess.Popen([*command, "-p", str(server.process.pid)])
                time.sleep(0.5)
            requests, cpu = server.produce_requests(), server.process.cpu()
            if o.client == "java":
                row = bench.java_produce(server, "produce", o.records, o.size, o.acks, o.codec)
            else:
                row = bench.client(
                    "produce", server.bootstrap, "produce", o.records, o.size, o.acks, o.codec
                )
            requests, cpu = server.produce_requests() - requests, server.process.cpu() - cpu
            if perf:
                perf.send_signal(2)
                perf.wait()
            print(
                f"{row['mb_s']:.0f} MB/s; {requests} requests of {o.records / requests:.0f} records; broker CPU "
                f"{cpu / requests * 1e6:.0f} us per request, {cpu / (row['bytes'] / 1e9):.2f} s per GB"
            )
            if perf:
                shares(recorded)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
