"""Precision over streams of changes: operations sent against operations needed, for every target of films, series and people.

Loads a part of the data, syncs it, and then, step after step, changes the three tables as many writers would (merges that rewrite equal rows,
events applied by `silver.py apply`, appends, deletes, updates, overwrites, compactions, restores, several commits between two syncs), syncs,
compares what was sent with what was needed, and lets `verify` compare the engines with the tables. A sync after each of them must send
nothing. What was needed is counted from two versions of the Delta tables (`records.py`), apart from the engine. The writer is the `deltalake` of
the Python that runs this: run it with several. Needs deltalake and pyarrow.

    python bench/streams.py --tools TOOLS --data DATA --seed 7
"""

import copy
import gzip
import importlib.util
import itertools
import json
import random
import sys
from pathlib import Path

import deltalake
import pyarrow
from deltalake import DeltaTable, write_deltalake

import measure
import records

KEYS = {"movies": "movie_id", "people": "person_id", "tv_series": "tv_series_id"}
DETAIL = {"movies": "movie_detail", "people": "person_detail", "tv_series": "tv_series_detail"}
TEXTS = {"movies": "overview", "people": "biography", "tv_series": "overview"}
SIZES = {"movies": 500, "people": 1500, "tv_series": 300}


def state(path, table):
    """The records of a table as it is now, by key."""
    found = pyarrow.table(DeltaTable(str(path)).to_pyarrow_table()).to_pylist()
    keys = [record[KEYS[table]] for record in found]
    if len(set(keys)) != len(keys):
        sys.exit(f"{path} holds a key twice: the stream is wrong")
    return {record[KEYS[table]]: record for record in found}


class Stream:
    """Random changes of one table, each one commit or more of a real writer."""

    def __init__(self, silver, lake, table, rng):
        self.silver, self.lake, self.table, self.rng = silver, lake, table, rng
        self.path, self.key = lake / table, KEYS[table]
        self.fresh = itertools.count(700_000_000 + rng.randrange(10**6) * 100)

    def changed(self, record):
        """A record with one of its parts changed, or none."""
        record = copy.deepcopy(record)
        detail = record[DETAIL[self.table]]
        kind = self.rng.choice(["equal", "popularity", "text", "name", "list", "credit", "nothing read", "null text"])
        if kind == "popularity":
            detail["popularity"] = (detail["popularity"] or 0) + self.rng.random()
        elif kind == "text":
            detail[TEXTS[self.table]] = (detail[TEXTS[self.table]] or "") + f" Said again, {self.rng.randrange(10**9)}."
        elif kind == "null text":
            detail[TEXTS[self.table]] = self.rng.choice([None, "", "   "])
        elif kind == "name":
            name = "title" if self.table == "movies" else "name"
            detail[name] = f"Ünï “{self.rng.randrange(10**6)}” \N{TAB}'`\\"
        elif kind == "list" and self.table != "people":
            lists = ["genres", "keywords", "production_companies"] + (["networks", "seasons"] if self.table == "tv_series" else [])
            found = detail[self.rng.choice(lists)] or []
            self.rng.shuffle(found)
            if found and self.rng.random() < 0.5:
                found.pop()
        elif kind == "credit" and self.table != "people":
            found = record[self.rng.choice(["casts_info", "crews_info"])] or []
            if found and self.rng.random() < 0.7:
                one = self.rng.choice(found)
                one["name" if self.rng.random() < 0.5 else "gender"] = "Understudy" if self.rng.random() < 0.5 else None
                one["gender"] = self.rng.choice([None, 1, 2])
            elif found:
                found.pop(self.rng.randrange(len(found)))
        elif kind == "nothing read":
            detail["id"] = self.rng.randrange(10**9)
        return record

    def new(self, record):
        """The same record under a key of its own."""
        record = self.changed(record)
        record[self.key] = record[DETAIL[self.table]]["id"] = next(self.fresh)
        for credit in [*(record.get("casts_info") or []), *(record.get("crews_info") or [])]:
            credit["credit_id"] = f"{self.rng.getrandbits(96):024x}"
        return record

    def some(self, now, most):
        return self.rng.sample(sorted(now), min(len(now), self.rng.randint(1, most)))

    def step(self):
        """One change, of a random kind. Answers its name."""
        now, rng = state(self.path, self.table), self.rng
        kinds = ["merge", "merge", "rewrite", "append", "delete", "update", "overwrite", "compact", "restore", "there and back"]
        kind = rng.choice([*kinds, "events", "events"] if self.table == "movies" else kinds)
        delta = DeltaTable(str(self.path))
        if kind == "merge":
            upserts = [self.changed(now[key]) for key in self.some(now, 60)] + [self.new(now[key]) for key in self.some(now, 3)]
            taken = {record[self.key] for record in upserts}
            self.silver.merge(str(self.lake), self.table, upserts, [key for key in self.some(now, 4) if key not in taken])
        elif kind == "rewrite":
            self.silver.merge(str(self.lake), self.table, list(now.values()), [])
        elif kind == "append":
            self.write([self.new(now[key]) for key in self.some(now, 5)], "append")
        elif kind == "delete":
            delta.delete(f"{self.key} in ({', '.join(map(str, self.some(now, 4)))})")
        elif kind == "update":
            column = self.key if self.table == "people" else "casts_info"
            keys = ", ".join(map(str, self.some(now, 3)))
            delta.update(updates={column: column if self.table == "people" else "NULL"}, predicate=f"{self.key} in ({keys})")
        elif kind == "overwrite":
            for key in self.some(now, 3):
                now[key] = self.changed(now[key])
            self.write(list(now.values()), "overwrite")
        elif kind == "compact":
            delta.optimize.compact()
        elif kind == "restore":
            delta.restore(max(0, delta.version() - 1))
        elif kind == "there and back":
            chosen = [now[key] for key in self.some(now, 10)]
            self.silver.merge(str(self.lake), self.table, [self.changed(record) for record in chosen], [])
            self.silver.merge(str(self.lake), self.table, [], [chosen[0][self.key]])
            self.silver.merge(str(self.lake), self.table, chosen, [])
        else:
            self.events(now)
        return kind

    def events(self, now):
        """A file of events as a crawler would leave it, applied by `silver.py apply`."""
        path, lines = self.lake / "events.jsonl", []
        for at in range(self.rng.randint(1, 3)):
            for key in self.some(now, 20):
                record = self.changed(now[key])
                gone = self.rng.random() < 0.1
                whole = {name: record[name] for name in ("movie_detail", "casts_info", "crews_info")[: self.rng.choice([1, 3])]}
                lines.append({"op": "delete", "movie_id": key} if gone else {"op": "upsert", "movie_id": key, **whole})
                lines[-1]["observed_at"] = f"2026-01-0{at + 1}"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        measure.run([sys.executable, self.silver.__file__, "apply", self.lake, path])
        path.unlink()

    def write(self, found, mode):
        write_deltalake(str(self.path), self.silver.table(found, self.silver.TABLES[self.table][0]), mode=mode)


def module(path):
    """silver.py without running it."""
    spec = importlib.util.spec_from_file_location("silver", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def part(data, into, table, count):
    """The first records of a table of the data."""
    with gzip.open(data / f"{table}.jsonl.gz", "rt") as lines:
        into.mkdir(exist_ok=True)
        (into / f"{table}.jsonl").write_text("".join(itertools.islice(lines, count)))


def sent(report, table):
    """Operations and embedded texts that a sync reports for a table: by (sink, target), and their sum."""
    operations, embedded = {}, 0
    for entry in report["tables"]:
        for target in entry["targets"] if entry["table"] == table else []:
            name = (target["sink"], target["target"])
            operations[name] = operations.get(name, 0) + target["upserts"] + target["payload_updates"] + target["deletes"]
            embedded += target["texts_embedded"]
    return operations, embedded


def main():
    parser = measure.options(__doc__, rounds=12)
    parser.add_argument("--tools", type=Path, required=True, help="the folder of silver.py")
    parser.add_argument("--data", type=Path, required=True, help="the folder of movies.jsonl.gz, people.jsonl.gz, tv_series.jsonl.gz")
    parser.add_argument("--seed", type=int, default=1, help="what the stream starts from (default %(default)s)")
    args = parser.parse_args()
    binary, silver, wrong = measure.program(args.binary), module(args.tools / "silver.py"), []
    totals = {"sent": 0, "needed": 0, "embedded": 0, "texts_new": 0, "sent_by_third_syncs": 0}
    with measure.workspace(args.work) as work:
        lake = work / "silver"
        for table, count in SIZES.items():
            part(args.data, work / "data", table, count)
        measure.run([sys.executable, args.tools / "silver.py", "load", work / "data", lake])
        config = measure.configure(work / "engines", {table: lake / table for table in KEYS}, engines=("clickhouse", "graph", "vectors"), embed="hash")
        streams = [Stream(silver, lake, table, random.Random(f"{args.seed} {table}")) for table in KEYS]
        before = {table: {} for table in KEYS}
        for step in range(args.rounds + 1):
            rng = random.Random(f"{args.seed} {step}")
            kinds = {s.table: [s.step() for _ in range(rng.randint(0, 3))] for s in streams} if step else {}
            after = {table: state(lake / table, table) for table in KEYS}
            report = measure.sync(binary, config).json()
            for table in KEYS:
                need, (got, embedded) = records.needed(table, before[table], after[table]), sent(report, table)
                for target, count in need.items():
                    if got.get(target, 0) != count:
                        wrong.append(f"step {step} {kinds}: {table} {target}: sent {got.get(target, 0)}, needed {count}")
                fresh = len(records.texts(table, after[table]) - records.texts(table, before[table]))
                if embedded > fresh:
                    wrong.append(f"step {step} {kinds}: {table}: embedded {embedded}, new {fresh}")
                for name, count in (("sent", sum(got.values())), ("needed", sum(need.values())), ("embedded", embedded), ("texts_new", fresh)):
                    totals[name] += count
            measure.run([binary, "verify", "--config", config, "--json"])
            third = measure.sync(binary, config).json()
            totals["sent_by_third_syncs"] += sum(sum(sent(third, table)[0].values()) + sent(third, table)[1] for table in KEYS)
            measure.say(f"step {step} {kinds or 'first'}: {totals}")
            before = after
        for line in wrong:
            measure.say(line)
        goals = [
            ("targets and steps with sent other than needed", len(wrong), "==", 0),
            ("operations of third syncs", totals["sent_by_third_syncs"], "==", 0),
        ]
        measure.report("streams", args, goals, deltalake=deltalake.__version__, seed=args.seed, **totals)


if __name__ == "__main__":
    main()
