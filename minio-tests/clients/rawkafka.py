"""A Kafka client small enough to say anything: record batches built byte by byte, requests sent as given.

Independent of the broker's code and of every client library, so that it can send what no library would
(timestamp -1, header keys that are not UTF-8, lies) and see exactly what comes back. Not fast, not complete.
"""

import socket
import struct
import zlib

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = {"none": NONE, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}


def _table():
    rows = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        rows.append(n)
    return rows


_CRC = _table()


def crc32c(data):
    crc, table = 0xFFFFFFFF, _CRC
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(n):
    n = (n << 1) ^ (n >> 63)
    out = bytearray()
    while True:
        if n < 0x80:
            out.append(n)
            return bytes(out)
        out.append(n & 0x7F | 0x80)
        n >>= 7


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n < 0 or self.at + n > len(self.data):
            raise ValueError(f"{n} bytes wanted at {self.at} of {len(self.data)}")
        self.at += n
        return self.data[self.at - n : self.at]

    def num(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def varint(self):
        shift = value = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7

    def text(self):
        n = self.num("h")
        return None if n < 0 else bytes(self.take(n)).decode()

    def blob(self, length):
        return None if length < 0 else bytes(self.take(length))


def sized(data):
    return varint(-1) if data is None else varint(len(data)) + data


def compress(codec, data):
    if codec == NONE:
        return data
    if codec == GZIP:
        c = zlib.compressobj(6, zlib.DEFLATED, 31)
        return c.compress(data) + c.flush()
    if codec == LZ4:
        return _lz4_frame(data)
    import pyarrow

    return pyarrow.Codec({SNAPPY: "snappy", ZSTD: "zstd"}[codec]).compress(data).to_pybytes()


def _lz4_frame(data):
    """Independent blocks of 64 KiB, as Kafka's own clients write them (Kafka refuses linked ones)."""
    import pyarrow

    out, block = b"\x04\x22\x4d\x18\x60\x40" + bytes([_xxh32(b"\x60\x40") >> 8 & 0xFF]), 65536
    for at in range(0, len(data), block):
        plain = data[at : at + block]
        packed = pyarrow.Codec("lz4_raw").compress(plain).to_pybytes()
        if len(packed) < len(plain):
            out += struct.pack("<I", len(packed)) + packed
        else:
            out += struct.pack("<I", len(plain) | 1 << 31) + plain
    return out + struct.pack("<I", 0)


def _xxh32(data):
    """Of inputs under four bytes."""

    def rotated(x, n):
        return (x << n | x >> (32 - n)) & 0xFFFFFFFF

    h = (374761393 + len(data)) & 0xFFFFFFFF
    for byte in data:
        h = rotated((h + byte * 374761393) & 0xFFFFFFFF, 11) * 2654435761 & 0xFFFFFFFF
    h = (h ^ h >> 15) * 2246822519 & 0xFFFFFFFF
    h = (h ^ h >> 13) * 3266489917 & 0xFFFFFFFF
    return h ^ h >> 16


def decompress(codec, data):
    if codec == NONE:
        return data
    if codec == GZIP:
        return zlib.decompress(data, 31)
    import pyarrow

    if codec == SNAPPY and data[:8] == b"\x82SNAPPY\x00":
        out, at = b"", 16
        while at < len(data):
            n = struct.unpack(">i", data[at : at + 4])[0]
            out += _snappy(data[at + 4 : at + 4 + n])
            at += 4 + n
        return out
    if codec == SNAPPY:
        return _snappy(data)
    with pyarrow.CompressedInputStream(
        pyarrow.BufferReader(data), {LZ4: "lz4", ZSTD: "zstd"}[codec]
    ) as stream:
        return stream.read()


def _snappy(data):
    import pyarrow

    size = shift = at = 0
    while True:
        size |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            break
    return pyarrow.Codec("snappy").decompress(data, size).to_pybytes()


def record(offset_delta, timestamp_delta, key, value, headers):
    body = (
        b"\x00"
        + varint(timestamp_delta)
        + varint(offset_delta)
        + sized(key)
        + sized(value)
        + varint(len(headers))
    )
    for name, content in headers:
        body += varint(len(name)) + name + sized(content)
    return varint(len(body)) + body


def batch(records, codec=NONE, producer=(-1, -1, -1), attributes=0, **lies):
    """Bytes of a RecordBatch v2. `records`: (timestamp, key, value, headers). `lies` replaces header fields:
    count, last_offset_delta, magic, crc, length, section (the compressed records themselves)."""
    first = records[0][0] if records else 0
    plain = b"".join(record(i, r[0] - first, r[1], r[2], r[3]) for i, r in enumerate(records))
    section = lies.get("section", compress(codec, plain))
    tail = (
        struct.pack(
            ">hiqqqhii",
            attributes | codec,
            lies.get("last_offset_delta", len(records) - 1),
            first,
            max((r[0] for r in records), default=0),
            producer[0],
            producer[1],
            producer[2],
            lies.get("count", len(records)),
        )
        + section
    )
    crc = lies.get("crc", crc32c(tail))
    return struct.pack(">qiibI", 0, lies.get("length", len(tail) + 9), -1, lies.get("magic", 2), crc) + tail


def end_of(data):
    """The offset after the last whole batch; 0 without one."""
    at, after = 0, 0
    while len(data) - at >= 61:
        base, length = struct.unpack_from(">qi", data, at)
        if at + 12 + length > len(data):
            break
        after = base + struct.unpack_from(">i", data, at + 23)[0] + 1
        at += 12 + length
    return after


def records_in(data):
    """Every record of concatenated batches: (offset, timestamp, timestamp type, key, value, headers)."""
    at = 0
    while at + 61 <= len(data):
        base, length = struct.unpack(">qi", data[at : at + 12])
        if at + 12 + length > len(data):
            return
        whole = data[at : at + 12 + length]
        at += 12 + length
        crc, attributes, _, first, last = struct.unpack(">IhiqQ", whole[17:43])
        if crc32c(whole[21:]) != crc:
            raise ValueError(f"batch at offset {base}: the checksum does not match")
        r = Reader(decompress(attributes & 7, whole[61:]))
        for _ in range(struct.unpack(">i", whole[57:61])[0]):
            r.varint()
            r.take(1)
            delta, offset = r.varint(), base + r.varint()
            key, value = r.blob(r.varint()), r.blob(r.varint())
            headers = []
            for _ in range(r.varint()):
                name = r.blob(r.varint())
                headers.append((name, r.blob(r.varint())))
            kind = attributes >> 3 & 1
            stamp = struct.unpack(">q", whole[35:43])[0] if kind else first + delta
            yield offset, stamp, kind, key, value, headers


def text(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack(">h", len(raw)) + raw


class Connection:
    def __init__(self, bootstrap, timeout=120):
        host, port = bootstrap.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.correlation = 0

    def send(self, raw):
        self.socket.sendall(raw)

    def read(self, n):
        out = b""
        while len(out) < n:
            part = self.socket.recv(n - len(out))
            if not part:
                raise ConnectionError(f"closed after {len(out)} of {n} bytes")
            out += part
        return out

    def call(self, key, version, body, flexible=False):
        """One request, its answer's body (after the response header, v0, or v1 if `flexible`)."""
        self.correlation += 1
        head = (
            struct.pack(">hhi", key, version, self.correlation) + text("raw") + (b"\x00" if flexible else b"")
        )
        self.send(struct.pack(">i", len(head) + len(body)) + head + body)
        return self.answer(flexible)

    def answer(self, flexible=False):
        size = struct.unpack(">i", self.read(4))[0]
        r = Reader(self.read(size))
        got = r.num("i")
        if got != self.correlation:
            raise ValueError(f"correlation id {got}, not {self.correlation}")
        if flexible:
            r.take(1)
        return r

    def produce(self, topic, partition, data, acks=-1, version=7):
        """(error code, base offset, log append time) of one batch."""
        body = struct.pack(">h", -1) + struct.pack(">hi", acks, 30000) + struct.pack(">i", 1) + text(topic)
        body += struct.pack(">ii", 1, partition) + struct.pack(">i", len(data)) + data
        r = self.call(0, version, body)
        assert r.num("i") == 1 and r.text() == topic and r.num("i") == 1 and r.num("i") == partition
        return r.num("h"), r.num("q"), r.num("q")

    def fetch(self, topic, partition, offset, max_bytes=1 << 20, wait_ms=500):
        """(error code, high watermark, raw batches), Fetch v11."""
        body = struct.pack(">iiiibii", -1, wait_ms, 1, max_bytes, 0, 0, -1)
        body += struct.pack(">i", 1) + text(topic) + struct.pack(">i", 1)
        body += struct.pack(">iiqqi", partition, -1, offset, -1, max_bytes) + struct.pack(">i", 0) + text("")
        r = self.call(1, 11, body)
        r.num("i")
        error, _ = r.num("h"), r.num("i")
        if error:
            return error, -1, b""
        assert r.num("i") == 1 and r.text() == topic and r.num("i") == 1 and r.num("i") == partition
        error, high, _, _ = r.num("h"), r.num("q"), r.num("q"), r.num("q")
        for _ in range(max(r.num("i"), 0)):
            r.take(16)
        r.num("i")
        return error, high, r.blob(r.num("i")) or b""

    def list_offset(self, topic, partition, timestamp):
        """(error code, timestamp, offset), ListOffsets v5: knows -1 (end), -2 (start), -3 needs v7."""
        body = struct.pack(">ib", -1, 0) + struct.pack(">i", 1) + text(topic)
        body += struct.pack(">i", 1) + struct.pack(">iiq", partition, -1, timestamp)
        r = self.call(2, 5, body)
        r.num("i")
        assert r.num("i") == 1 and r.text() == topic and r.num("i") == 1 and r.num("i") == partition
        return r.num("h"), r.num("q"), r.num("q")

    def read_all(self, topic, partition, start=0):
        """Every record from `start` to the high watermark."""
        out, at = [], start
        while True:
            error, high, data = self.fetch(topic, partition, at)
            if error:
                raise ValueError(f"fetch {topic}-{partition} at {at}: error {error}")
            if at >= high:
                return out
            for found in records_in(data):
                if found[0] >= at:
                    out.append(found)
            # A batch may end behind its last record, or have none: what has expired is not shown.
            after = end_of(data)
            if after <= at:
                raise ValueError(f"fetch {topic}-{partition} at {at}: no progress below {high}")
            at = after

    def closed_within(self, seconds):
        """True if the other side closes (or resets) without having sent anything."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def close(self):
        self.socket.close()
