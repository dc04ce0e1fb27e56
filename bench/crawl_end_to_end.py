"""A crawl end to end: the whole `sync` process against a Python process that does nothing but read the same change feed.

Loads films with `silver.py load`, fills all three engines, and then, crawl after crawl (`silver.py crawl`), runs both from start to exit,
now one first, now the other. `--tools` and `--data` name the folders of silver.py and of its input. Needs deltalake and pyarrow in the
Python that runs this.

    python bench/crawl_end_to_end.py --tools TOOLS --data DATA
"""

import json
import sys
from pathlib import Path

import measure

ENGINES = ["clickhouse", "graph", "vectors"]
READER = """
import sys
from deltalake import DeltaTable
print(DeltaTable(sys.argv[1]).load_cdf(starting_version=int(sys.argv[2]), ending_version=int(sys.argv[2])).read_all().num_rows)
"""


def main():
    parser = measure.options(__doc__, rounds=7)
    parser.add_argument("--tools", type=Path, required=True, help="the folder of silver.py")
    parser.add_argument("--data", type=Path, required=True, help="the folder of movies.jsonl.gz")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="fewer engines show what each costs; the goal is for all")
    args = parser.parse_args()
    binary = measure.program(args.binary)
    silver = [sys.executable, args.tools / "silver.py"]
    with measure.workspace(args.work) as work:
        lake = work / "silver"
        measure.run([*silver, "load", args.data, lake])
        config = measure.configure(work / "engines", {"movies": lake / "movies"}, engines=args.engines, embed="hash")
        first = measure.sync(binary, config)
        measure.say(f"first sync: {first.seconds:.2f} s")
        syncs, reads, operations = [], [], []
        for crawl in range(1, args.rounds + 1):
            said = json.loads(measure.run([*silver, "crawl", lake, "--seed", crawl]).stdout)
            sides = [
                (syncs, lambda: measure.sync(binary, config)),
                (reads, lambda: measure.run([sys.executable, "-c", READER, lake / "movies", said["version"]])),
            ]
            for done, side in sides if crawl % 2 else reversed(sides):
                done.append(side())
            table = syncs[-1].json()["tables"][0]
            if (table["strategy"], table["to"]) != ("feed", said["version"]):
                raise SystemExit(f"not what was to be measured: {table}")
            operations.append(sum(t["upserts"] + t["payload_updates"] + t["deletes"] for t in table["targets"]))
            measure.say(f"crawl {crawl}: sync {syncs[-1].seconds:.3f} s ({operations[-1]} operations), reader {reads[-1].seconds:.3f} s")
        sync, read = (measure.median([done.seconds for done in runs]) for runs in (syncs, reads))
        measure.report(
            "crawl_end_to_end", args, [("sync process / reading process, medians", round(sync / read, 3), "<=", 5)],
            engines=args.engines,
            sync_s=measure.rounded(done.seconds for done in syncs), read_s=measure.rounded(done.seconds for done in reads),
            sync_cpu_s=measure.rounded(done.cpu_seconds for done in syncs), read_cpu_s=measure.rounded(done.cpu_seconds for done in reads),
            sync_median_s=sync, read_median_s=read, sync_elapsed_ms=[done.json()["elapsed_ms"] for done in syncs],
            sync_peak_mib=[round(done.peak_mib) for done in syncs], feed_rows=[int(done.stdout) for done in reads],
            operations=operations, first_s=round(first.seconds, 3),
        )


if __name__ == "__main__":
    main()
