"""Rows a second to a ClickHouse server over HTTP: this sink against the official Python client, with the same Arrow table.

Both insert the same table in one run, in turn, into tables of one kind (`ReplacingMergeTree`, each insert synced to the disk) of one
server; the server is the front of `tests/fronts`, or one that `--server` names. The sink is run by `examples/clickhouse_insert.rs`: what it
does between opening and flushing counts. The client's `insert_arrow` is given the same rows with `_version`, in blocks of as many rows as
the sink sends. Sums over all rows prove that both wrote the same.

    python3 bench/clickhouse_http.py --rows 1000000 --profile dev

It needs clickhouse-connect and pyarrow; `tests/servers/clickhouse.sh` puts them into a directory of its own.
"""

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa

import measure

BLOCK_ROWS = 65_536
SUM = "SELECT count(), toString(sum(cityHash64(id, title, overview, popularity, votes, tags))) FROM {} FINAL"


def table(rows):
    """Rows such as films have: numbers, short and long texts, a list."""
    numbers = range(rows)
    return pa.table({
        "id": pa.array(numbers, pa.int64()),
        "title": pa.array([f"title {n * 7919 % rows}" for n in numbers]),
        "overview": pa.array([f"a text of some length, number {n}, " * 6 for n in numbers]),
        "popularity": pa.array([n * 31 % 1000 / 7 for n in numbers], pa.float64()),
        "votes": pa.array([n % 5000 for n in numbers], pa.int32()),
        "tags": pa.array([[f"tag {n % 17}", f"tag {n % 23}"] for n in numbers], pa.list_(pa.string())),
    })


@contextlib.contextmanager
def server(address, directory):
    """The address of a server: the one that is given, or a front for as long as this lasts."""
    if address:
        yield address
        return
    front = subprocess.Popen([str(directory / "fronts"), "clickhouse"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield front.stdout.readline().strip()
    finally:
        front.stdin.close()
        front.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", help="the URL of a ClickHouse server (default: the front of the tests)")
    parser.add_argument("--examples", type=Path, default=measure.ROOT / "target" / "release" / "examples", help="where the built examples are")
    parser.add_argument("--profile", default="release", help="how they were built: goes into the figures")
    args = parser.parse_args()
    rows = table(args.rows)
    with tempfile.TemporaryDirectory() as work, server(args.server, args.examples) as address:
        file = Path(work) / "rows.arrow"
        with pa.ipc.new_stream(file, rows.schema) as out:
            out.write_table(rows, max_chunksize=BLOCK_ROWS)
        at = urlsplit(address)
        client = clickhouse_connect.get_client(host=at.hostname, port=at.port, compress=False)
        client.command("CREATE DATABASE IF NOT EXISTS bench")

        def by_sink(round_):
            command = [args.examples / "clickhouse_insert", address, "bench", f"sink_{round_}", "id", file]
            return json.loads(measure.run(command).stdout)["seconds"]

        def by_client(round_):
            name = f"client_{round_}"
            client.command(
                f"CREATE TABLE bench.{name} (id Int64, title Nullable(String), overview Nullable(String), popularity Nullable(Float64), "
                "votes Nullable(Int32), tags Array(Nullable(String)), _version UInt64, _deleted UInt8 DEFAULT 0) "
                "ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY id SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
            )
            begin = time.perf_counter()
            for start in range(0, args.rows, BLOCK_ROWS):
                block = rows.slice(start, BLOCK_ROWS)
                block = block.append_column("_version", pa.array([1] * len(block), pa.uint64()))
                client.insert_arrow(f"bench.{name}", block)
            return time.perf_counter() - begin

        sink, theirs = [], []
        for round_ in range(args.rounds):
            sides = [(sink, by_sink), (theirs, by_client)]
            for done, side in sides if round_ % 2 else reversed(sides):
                done.append(side(round_))
            measure.say(f"round {round_ + 1}: sink {sink[-1]:.2f} s, clickhouse-connect {theirs[-1]:.2f} s")
        last = args.rounds - 1
        sums = [client.query(SUM.format(f"bench.{side}_{last}")).result_rows[0] for side in ("sink", "client")]
        if sums[0] != sums[1] or sums[0][0] != args.rows:
            raise SystemExit(f"the two sides did not write the same rows: {sums}")
        ours, others = measure.median(sink), measure.median(theirs)
        measure.report(
            "clickhouse_http", args, [("rows/s of the sink / rows/s of clickhouse-connect, medians", round(others / ours, 3), ">=", 1.0)],
            rows=args.rows, sink_s=measure.rounded(sink), client_s=measure.rounded(theirs),
            sink_rows_per_s=round(args.rows / ours), client_rows_per_s=round(args.rows / others), client=clickhouse_connect.__version__,
        )


if __name__ == "__main__":
    main()
