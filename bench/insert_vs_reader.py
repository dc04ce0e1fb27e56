"""Rows a second into the ClickHouse engine: a first sync against the engine's own reader of the same Delta table.

Generates a lake of films and fills one table, `movie`, from it in two ways, in turn: `distributary sync`, and
`INSERT INTO movie SELECT … FROM deltaLakeLocal('…')` through `distributary sql`, which is the same engine in the same program, into a
table that was made by the same DDL (settings that sync every insert to the disk and all). Both read the same columns and write the same
rows; a checksum over every column proves it. Both are timed from process start to exit.

    python3 bench/insert_vs_reader.py --films 300000
"""

import os
from pathlib import Path

import measure

# Columns that are taken as they are.
DETAIL = (
    "title", "original_title", "original_language", "overview", "tagline", "status", "homepage",
    "runtime", "budget", "revenue", "popularity", "vote_average", "vote_count",
)
# The table's columns: (name, in the mapping's SQL, in the engine's).
COLUMNS = [
    ("movie_id", "CAST(movie_id AS BIGINT)", "assumeNotNull(movie_id)"),
    *((name, f"movie_detail['{name}']", f"movie_detail.{name}") for name in DETAIL),
    ("release_date", "try_cast(movie_detail['release_date'] AS DATE)", "toDate32OrNull(movie_detail.release_date)"),
]
NAMES = ", ".join(name for name, _, _ in COLUMNS)


def mapping(directory):
    """A mapping of one table with one target."""
    directory.mkdir(parents=True)
    select = ", ".join(f"{ours} AS {name}" for name, ours, _ in COLUMNS)
    path = directory / "mapping.yaml"
    path.write_text(
        "tables:\n  movies:\n    key: [movie_id]\n    clickhouse:\n      movie:\n        key: [movie_id]\n"
        f"        sql: |\n          SELECT {select} FROM movies\n"
    )
    return path


def checksum(binary, config):
    """Rows of the table, and a sum of hashes over all columns of all rows."""
    row = measure.sql(binary, config, f"SELECT count() AS rows, toString(sum(cityHash64({NAMES}))) AS hash FROM movie FINAL").json()[0]
    return row["rows"], row["hash"]


def main():
    parser = measure.options(__doc__, rounds=5)
    parser.add_argument("--films", type=int, default=300_000, help="rows (default %(default)s)")
    parser.add_argument("--lake", type=Path, help="a lake of so many films, made before with `distributary sample DIR --films ROWS`")
    args = parser.parse_args()
    binary = measure.program(args.binary)
    with measure.workspace(args.work) as work:
        lake = args.lake.resolve() if args.lake else work / "lake"
        if not args.lake:
            made = measure.run([binary, "sample", lake, "--films", args.films, "--json"])
            measure.say(f"{args.films} films generated in {made.seconds:.0f} s")
        os.chdir(lake)  # the engine reads no file that is outside the directory it runs in
        movies, ours = lake / "movies", mapping(work / "mapping")
        config = {side: measure.configure(work / side, {"movies": movies}, mapping=ours) for side in ("sync", "reader")}
        select = ", ".join(f"{theirs} AS {name}" for name, _, theirs in COLUMNS)
        insert = f"INSERT INTO movie ({NAMES}, _version, _deleted) SELECT {select}, 1, 0 FROM deltaLakeLocal('{movies}')"

        def by_sync():
            measure.remove(work / "sync" / "clickhouse")
            return measure.sync(binary, config["sync"])

        def by_reader():
            measure.remove(work / "reader" / "clickhouse")
            measure.sql(binary, config["reader"], ddl)
            return measure.sql(binary, config["reader"], insert)

        by_sync()  # warms the page cache for both, and makes the table whose DDL both use
        ddl = measure.sql(binary, config["sync"], "SHOW CREATE TABLE movie").json()[0]["statement"]
        idle = [measure.sql(binary, config["sync"], "SELECT 1").seconds for _ in range(args.rounds)]
        syncs, reads = [], []
        for round_ in range(args.rounds):
            sides = [(syncs, by_sync), (reads, by_reader)]
            for done, side in sides if round_ % 2 else reversed(sides):
                done.append(side())
            measure.say(f"round {round_ + 1}: sync {syncs[-1].seconds:.2f} s, reader {reads[-1].seconds:.2f} s")
        held = {side: checksum(binary, config[side]) for side in config}
        if held["sync"] != held["reader"] or int(held["sync"][0]) != args.films:
            raise SystemExit(f"the two sides did not write the same rows: {held}")
        sync, read = (measure.median([done.seconds for done in runs]) for runs in (syncs, reads))
        measure.report(
            "insert_vs_reader", args, [("rows/s of sync / rows/s of the engine's reader, medians", round(read / sync, 3), ">=", 0.5)],
            rows=args.films, columns=len(COLUMNS), sync_s=measure.rounded(done.seconds for done in syncs),
            reader_s=measure.rounded(done.seconds for done in reads), idle_process_s=measure.median(idle),
            sync_rows_per_s=round(args.films / sync), reader_rows_per_s=round(args.films / read),
            sync_cpu_s=measure.rounded(done.cpu_seconds for done in syncs), reader_cpu_s=measure.rounded(done.cpu_seconds for done in reads),
            sync_peak_mib=[round(done.peak_mib) for done in syncs], reader_peak_mib=[round(done.peak_mib) for done in reads],
        )


if __name__ == "__main__":
    main()
