"""Sealed records as three other engines see them, straight from MinIO: pyarrow, DuckDB and Polars.

    readers.py BOOTSTRAP ENDPOINT BUCKET PREFIX [orphans] TOPIC...

Replays each topic by Kafka, reads its Parquet objects by each engine and demands the same rows, then the same
answers to an aggregate with a filter. `orphans`: a crash may have left objects that no manifest lists; their rows
must be the same as the listed ones'. Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import os
import re
import sys
from pathlib import Path

from canon import check, partitions_of, result
from rawkafka import Connection

I64_MAX = 2**63 - 1


def micros(timestamp_ms):
    """What `_timestamp` holds: microseconds, or null where they do not fit or the record has no timestamp (-1)."""
    us = timestamp_ms * 1000
    return us if timestamp_ms != -1 and -I64_MAX - 1 <= us <= I64_MAX else None


def as_bytes(value):
    return value.encode() if isinstance(value, str) else value


def row(partition, offset, timestamp_us, key, value, headers):
    pairs = [(as_bytes(h["key"]), as_bytes(h["value"])) for h in headers or []]
    return (int(partition), int(offset), timestamp_us, as_bytes(key), as_bytes(value), pairs)


class Bucket:
    def __init__(self, endpoint, bucket, prefix):
        self.endpoint, self.bucket, self.prefix = endpoint, bucket, prefix
        self.key, self.secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]

    def glob(self, topic):
        return f"s3://{self.bucket}/{self.prefix}/*/{topic}/*/partition=*/*.parquet"

    # --- the engines: each returns every row of a topic, in any order --------------------------------------

    def pyarrow(self, topic):
        import pyarrow as pa
        import pyarrow.fs
        import pyarrow.parquet

        fs = pa.fs.S3FileSystem(
            access_key=self.key, secret_key=self.secret, endpoint_override=self.endpoint, region="us-east-1"
        )
        rows = []
        for info in fs.get_file_info(pa.fs.FileSelector(f"{self.bucket}/{self.prefix}", recursive=True)):
            found = re.search(rf"/{re.escape(topic)}/[^/]+/partition=(\d+)/[^/]+\.parquet$", info.path)
            if not found:
                continue
            with fs.open_input_file(info.path) as file:
                table = pa.parquet.ParquetFile(file, page_checksum_verification=True).read()
            check(
                table.column_names == ["_offset", "_timestamp", "_key", "_value", "_headers"],
                f"{info.path} has columns {table.column_names}",
            )
            stamps = table["_timestamp"].cast(pa.int64())
            value = table["_value"]
            value = (
                value.cast(value.type.storage_type) if isinstance(value.type, pa.BaseExtensionType) else value
            )
            columns = (table["_offset"], stamps, table["_key"], value, table["_headers"])
            rows += [row(found.group(1), *cells) for cells in zip(*(c.to_pylist() for c in columns))]
        return rows

    def duckdb_connection(self):
        import duckdb
        import duckdb_extension_httpfs

        db = duckdb.connect(
            config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        )
        extension = next(Path(duckdb_extension_httpfs.__path__[0]).rglob("httpfs.duckdb_extension"))
        db.execute(f"LOAD '{extension}'")
        host = self.endpoint.removeprefix("http://")
        db.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{self.key}', SECRET '{self.secret}', ENDPOINT '{host}', "
            f"URL_STYLE 'path', USE_SSL false, REGION 'us-east-1')"
        )
        return db

    def duckdb(self, topic):
        found = (
            self.duckdb_connection()
            .execute(
                f"SELECT partition, _offset, epoch_us(_timestamp), _key, _value, _headers "
                f"FROM read_parquet('{self.glob(topic)}', hive_partitioning = true)"
            )
            .fetchall()
        )
        return [row(*cells) for cells in found]

    def polars_scan(self, topic):
        import polars

        return polars.scan_parquet(
            self.glob(topic),
            hive_partitioning=True,
            storage_options={
                "aws_access_key_id": self.key,
                "aws_secret_access_key": self.secret,
                "aws_region": "us-east-1",
                "aws_endpoint_url": self.endpoint,
                "aws_allow_http": "true",
            },
        )

    def polars(self, topic):
        import polars as pl

        frame = self.polars_scan(topic).with_columns(pl.col("_timestamp").cast(pl.Int64)).collect()
        names = ("partition", "_offset", "_timestamp", "_key", "_value", "_headers")
        return [row(*(cells[n] for n in names)) for cells in frame.iter_rows(named=True)]


def replayed(bootstrap, topic):
    """The truth: every record as the wire has it."""
    connection, rows = Connection(bootstrap), []
    for partition in partitions_of(bootstrap, topic):
        for offset, timestamp, _, key, value, headers in connection.read_all(topic, partition):
            rows.append((partition, offset, micros(timestamp), key, value, headers))
    return rows


def in_order(rows):
    return sorted(rows, key=lambda r: r[:2])


def first_difference(got, wanted):
    for a, b in zip(got, wanted):
        if a != b:
            return f"got {a!r:.300}, wanted {b!r:.300}"
    return f"{len(got)} rows, wanted {len(wanted)}"


def without_repeats(rows):
    return [r for n, r in enumerate(rows) if n == 0 or r != rows[n - 1]]


def compare(bucket, bootstrap, topic, orphans=False):
    wanted = in_order(replayed(bootstrap, topic))
    for engine in ("pyarrow", "duckdb", "polars"):
        got = in_order(getattr(bucket, engine)(topic))
        got = without_repeats(got) if orphans else got
        check(got == wanted, f"{topic} by {engine}: {first_difference(got, wanted)}")
    if not orphans:
        filtered(bucket, topic, wanted)
    return len(wanted)


def filtered(bucket, topic, wanted):
    """Row counts behind a filter on `_offset`, which engines answer from statistics and the page index."""
    middle = wanted[len(wanted) // 2][1]
    count = sum(1 for r in wanted if r[1] >= middle)
    nulls = sum(1 for r in wanted if r[1] >= middle and r[4] is None)
    sql = (
        bucket.duckdb_connection()
        .execute(
            f"SELECT count(*), count(*) FILTER (WHERE _value IS NULL) FROM "
            f"read_parquet('{bucket.glob(topic)}', hive_partitioning = true) WHERE _offset >= {middle}"
        )
        .fetchone()
    )
    check(sql == (count, nulls), f"{topic}: DuckDB's filter gives {sql}, wanted {(count, nulls)}")
    import polars as pl

    lazy = (
        bucket.polars_scan(topic)
        .filter(pl.col("_offset") >= middle)
        .select(pl.len(), pl.col("_value").null_count())
    )
    check(lazy.collect().row(0) == (count, nulls), f"{topic}: Polars' filter differs")


if __name__ == "__main__":
    here, topics = Bucket(*sys.argv[2:5]), sys.argv[5:]
    after_crash = topics[0] == "orphans"
    result(rows={t: compare(here, sys.argv[1], t, after_crash) for t in topics[after_crash:]})
