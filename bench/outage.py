"""How long partitions cannot be written after their leader is taken away: bare writers that never stop trying.

One writer per node, each a thread with a socket of its own: it sends one record with acks=all for partitions that
still wait, `AT_ONCE_MAX` at a time, to its own node, whoever leads, reads the answer, rests for `PAUSE_S` and goes on.
So what is measured is the cluster's alone, within a pause and a round trip: nobody waits for metadata or backs off.
"""

import threading
import time

from rawcluster import Connection

PAUSE_S = 0.01
# An answer names all its partitions, and so waits for the slowest: none may hold up the others for long.
ACK_WAIT_MS = 500
# More would be written again before it was acknowledged, where brokers sync each.
AT_ONCE_MAX = 100
ANSWER_WAIT_S = 2.0


class Outage:
    """`partitions` of `topic`, all led by the node that is about to go. An acknowledgement counts if what it
    answers was sent after the fault, so what was under way at that moment does not."""

    def __init__(self, nodes, topic, partitions):
        self.topic, self.lock = topic, threading.Lock()
        self.waiting, self.after, self.fault_at = set(partitions), {}, None
        self.before, self.over = set(), threading.Event()
        self.writers = [threading.Thread(target=self.write, args=(address,), daemon=True) for address in nodes]

    def begin(self, seconds_max=30):
        """Until every partition has been written once."""
        for writer in self.writers:
            writer.start()
        end = time.monotonic() + seconds_max
        while self.before < self.waiting:
            if time.monotonic() > end:
                raise RuntimeError(f"{len(self.waiting - self.before)} partitions cannot be written")
            time.sleep(PAUSE_S)

    def strike(self, fault):
        with self.lock:
            fault()
            self.fault_at = time.monotonic()

    def end(self, seconds_max):
        """Seconds from the fault to the first acknowledgement, of each partition."""
        self.over.wait(seconds_max)
        self.close()
        if self.waiting:
            raise RuntimeError(f"{len(self.waiting)} partitions not writable within {seconds_max} s")
        return sorted(self.after.values())

    def close(self):
        self.over.set()
        for writer in self.writers:
            writer.join()

    def write(self, address):
        connection, at = None, 0
        while not self.over.is_set():
            with self.lock:
                waiting, sent_after_fault = sorted(self.waiting), self.fault_at is not None
            at = at if at < len(waiting) else 0
            partitions = waiting[at : at + AT_ONCE_MAX]
            at += AT_ONCE_MAX
            try:
                connection = connection or Connection(address, ANSWER_WAIT_S)
                written = connection.produce_each(self.topic, partitions, ACK_WAIT_MS)
                self.acknowledged(written, sent_after_fault)
            except OSError:
                connection = None
            self.over.wait(PAUSE_S)

    def acknowledged(self, partitions, sent_after_fault):
        now = time.monotonic()
        with self.lock:
            if not sent_after_fault:
                self.before.update(partitions)
                return
            for partition in self.waiting.intersection(partitions):
                self.after[partition] = now - self.fault_at
                self.waiting.remove(partition)
            if not self.waiting:
                self.over.set()
