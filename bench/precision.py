"""Precision: operations sent against operations needed, for every target of the films, and texts embedded against texts that are new.

Loads films with `silver.py load`, syncs them into all three engines, and then syncs crawl after crawl. What was needed is counted in
Python from the two versions of the Delta table (`films.py`); what was sent is what the report of the sync says. A crawl with `--noop`
rewrites every row with equal content and must send nothing, and so must a second sync after each first one. `verify` compares every target
with Silver after each step. `--tools` and `--data` name the folders of silver.py and of its input. Needs deltalake and pyarrow.

    python bench/precision.py --tools TOOLS --data DATA

The engines are those in the process, or empty servers: `--clickhouse http://127.0.0.1:8123 --graph bolt://127.0.0.1:7687
--vectors qdrant://127.0.0.1:6334`, with secrets in the environment as always.
"""

import json
import sys
from pathlib import Path

import pyarrow
from deltalake import DeltaTable

import films
import measure

ENGINES = ("clickhouse", "graph", "vectors")


def state(path, version):
    """The films at a version, by key."""
    return {r["movie_id"]: r for r in pyarrow.table(DeltaTable(path, version=version).to_pyarrow_table()).to_pylist()}


def sent(table):
    """Operations that a sync reports, by (sink, target)."""
    return {(t["sink"], t["target"]): t["upserts"] + t["payload_updates"] + t["deletes"] for t in table["targets"]}


def embedded(table):
    """Texts that went through the model."""
    return sum(t["texts_embedded"] for t in table["targets"])


def ratio(part, whole):
    """Sent by needed; nothing sent where nothing was needed is 1."""
    return round(part / whole, 4) if whole else (1.0 if part == 0 else float(part))


def main():
    parser = measure.options(__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="the folder of silver.py")
    parser.add_argument("--data", type=Path, required=True, help="the folder of movies.jsonl.gz")
    parser.add_argument("--embed", default="hash", help="the embedder: hash, or a model (default %(default)s)")
    for engine in ENGINES:
        parser.add_argument(f"--{engine}", help="the address of an empty server, in place of the engine in the process")
    args = parser.parse_args()
    binary = measure.program(args.binary)
    silver = [sys.executable, args.tools / "silver.py"]
    with measure.workspace(args.work) as work:
        lake = work / "silver"
        measure.run([*silver, "load", args.data, lake])
        servers = {engine: getattr(args, engine) for engine in ENGINES if getattr(args, engine)}
        config = measure.configure(work / "engines", {"movies": lake / "movies"}, engines=ENGINES, embed=args.embed, servers=servers)
        before, steps = {}, []
        crawls = [["--seed", crawl] for crawl in range(1, args.rounds + 1)] + [["--noop"]]
        for options in [None, *crawls]:
            version = 0 if options is None else json.loads(measure.run([*silver, "crawl", lake, *options]).stdout)["version"]
            table = measure.sync(binary, config).json()["tables"][0]
            measure.run([binary, "verify", "--config", config])
            again = measure.sync(binary, config).json()["tables"]
            again = sum(sum(sent(t).values()) + embedded(t) for t in again)
            after = state(lake / "movies", version)
            need, got = films.needed(before, after), sent(table)
            if need.keys() != got.keys():
                sys.exit(f"the mapping's targets are not those of films.py: {need.keys() ^ got.keys()}")
            fresh = len(films.texts(after) - films.texts(before))
            step = "first" if options is None else " ".join(map(str, options))
            steps.append({
                "step": step, "strategy": table["strategy"], "sent": sum(got.values()), "needed": sum(need.values()),
                "targets": {"/".join(target): [got[target], need[target]] for target in need},
                "embedded": embedded(table), "texts_new": fresh, "sent_again": again,
            })
            measure.say(f"{step}: sent {sum(got.values())}, needed {sum(need.values())}; embedded {embedded(table)}, new {fresh}")
            before = after
        moving = steps[:-1]
        ratios = [ratio(*pair) for step in moving for pair in step["targets"].values()]
        texts = [ratio(step["embedded"], step["texts_new"]) for step in moving]
        goals = [
            ("sent / needed, the highest of all targets and steps", max(ratios), "==", 1.0),
            ("sent / needed, the lowest", min(ratios), "==", 1.0),
            ("texts embedded / new texts, the highest", max(texts), "==", 1.0),
            ("texts embedded / new texts, the lowest", min(texts), "==", 1.0),
            ("operations of the syncs right after", sum(step["sent_again"] for step in steps), "==", 0),
            ("operations of a --noop crawl", steps[-1]["sent"] + steps[-1]["embedded"], "==", 0),
        ]
        measure.report("precision", args, goals, embed=args.embed, servers=servers, films=len(before), steps=steps)


if __name__ == "__main__":
    main()
