"""A Neo4j server filled and kept current: the whole `sync` process against the official Python driver.

Loads films, people and series with `silver.py load`. First load: the server is emptied, and then either `sync` fills it, or the driver
writes the same nodes and relationships with the same statements, less what decides between versions, in batches of 5,000 (`UNWIND`), one
managed transaction a batch. The driver is given its rows ready made, in memory; `sync` reads the lake, projects, and keeps checkpoints and quarantine besides. Crawl: after
each `silver.py crawl`, `sync` brings what has changed, and the driver merges all films and their relationships again, as a job that does
not know what has changed has to. A round of each side warms the server before anything counts. `--tools` and `--data` name the folders of
silver.py and of its input, `--url` the server, whose graph is lost. Needs deltalake, pyarrow and neo4j (the driver) in the Python that
runs this.

    python bench/neo4j.py --tools TOOLS --data DATA --url bolt://127.0.0.1:7687
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.pop(0)  # This file has the driver's name.
from neo4j import GraphDatabase  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
import measure  # noqa: E402

BATCH_ROWS = 5_000
OWN = "_Distributary"


class Server:
    """The graph on the server, through the driver."""

    def __init__(self, url, password):
        self.driver = GraphDatabase.driver(url, auth=("neo4j", password), notifications_min_severity="OFF")

    def ask(self, statement, **values):
        return [record.values() for record in self.driver.execute_query(statement, **values).records]

    def empty(self):
        with self.driver.session() as session:
            session.run("MATCH (n) CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 10000 ROWS").consume()

    def keys(self):
        """The key properties of each label."""
        found = self.ask("SHOW CONSTRAINTS YIELD labelsOrTypes, properties RETURN labelsOrTypes[0], properties")
        return {label: properties for label, properties in found if not label.startswith(OWN)}

    def nodes(self, keys):
        """Statement and rows for each label."""
        for label, properties in sorted(keys.items()):
            rows = [[*(node[p] for p in properties), node] for [node] in self.ask(f"MATCH (n:`{label}`) RETURN properties(n)")]
            yield f"UNWIND $given.rows AS row MERGE {pattern('n', label, properties, 0)} SET n = row[{len(properties)}]", rows

    def relationships(self, keys, merge=False, of=None):
        """Statement and rows for each type between two labels; `of` leaves those that do not touch the label."""
        kinds = self.ask("MATCH (a)-[r]->(b) RETURN DISTINCT labels(a)[0], type(r), labels(b)[0]")
        for start, kind, end in sorted(kinds):
            if of and of not in (start, end):
                continue
            found = self.ask(f"MATCH (a:`{start}`)-[r:`{kind}`]->(b:`{end}`) RETURN properties(a), properties(r), properties(b)")
            first, second = keys[start], keys[end]
            ends = len(first) + len(second)
            own = sorted({name for _, row, _ in found for name in row})
            match = (
                f"UNWIND $given.rows AS row MATCH {pattern('a', start, first, 0)} USING INDEX SEEK a:`{start}`({names(first)}) "
                f"MATCH {pattern('b', end, second, len(first))} USING INDEX SEEK b:`{end}`({names(second)}) "
            )
            nodes = [([*(a[p] for p in first), *(b[p] for p in second)], row) for a, row, b in found]
            if merge:
                identity = f"{{credit_id: row[{ends}].credit_id}}" if all("credit_id" in row for _, row, _ in found) else ""
                yield f"{match}MERGE (a)-[r:`{kind}`{identity}]->(b) SET r = row[{ends}]", [[*found_by, row] for found_by, row in nodes]
            else:
                pairs = ", ".join(f"`{p}`: row[{ends + i}]" for i, p in enumerate(own))
                yield f"{match}CREATE (a)-[r:`{kind}` {{{pairs}}}]->(b)", [[*found_by, *(row.get(p) for p in own)] for found_by, row in nodes]

    def write(self, work):
        """Everything in batches; answers the seconds."""
        begin = time.perf_counter()
        with self.driver.session() as session:
            for statement, rows in work:
                for first in range(0, len(rows), BATCH_ROWS):
                    some = rows[first : first + BATCH_ROWS]
                    session.execute_write(lambda transaction: transaction.run(statement, given={"rows": some}).consume())
        return time.perf_counter() - begin

    def size(self):
        return self.ask("MATCH (n) RETURN count(n)")[0][0], self.ask("MATCH ()-[r]->() RETURN count(r)")[0][0]


def names(properties):
    return ", ".join(f"`{p}`" for p in properties)


def pattern(variable, label, properties, first):
    """The node whose key stands in the row from this place on."""
    pairs = ", ".join(f"`{p}`: row[{first + i}]" for i, p in enumerate(properties))
    return f"({variable}:`{label}` {{{pairs}}})"


def configure(directory, lake, url):
    tables = {name: str(lake / name) for name in ("movies", "people", "tv_series")}
    path = measure.configure(directory, tables, engines=["graph"], embed="off")
    config = json.loads(path.read_text())
    config["graph"] = {"url": url, "user": "neo4j"}
    path.write_text(json.dumps(config))
    return path


def main():
    parser = measure.options(__doc__, rounds=3)
    parser.add_argument("--tools", type=Path, required=True, help="the folder of silver.py")
    parser.add_argument("--data", type=Path, required=True, help="the folder of movies.jsonl.gz")
    parser.add_argument("--url", required=True, help="a Neo4j server whose graph may be lost")
    parser.add_argument("--password", default="secret-words", help="of the user neo4j")
    args = parser.parse_args()
    binary = measure.program(args.binary)
    os.environ["DISTRIBUTARY_GRAPH_PASSWORD"] = args.password
    silver = [sys.executable, args.tools / "silver.py"]
    server = Server(args.url, args.password)
    with measure.workspace(args.work) as work:
        lake = work / "silver"
        measure.run([*silver, "load", args.data, lake])
        config = configure(work / "engines", lake, args.url)
        server.empty()
        warm = measure.sync(binary, config)
        measure.say(f"warm-up: sync {warm.seconds:.2f} s")
        keys = server.keys()
        load = [*server.nodes(keys), *server.relationships(keys)]
        whole = server.size()
        server.empty()
        measure.say(f"warm-up: driver {server.write(load):.2f} s")
        syncs, drivers = [], []
        for number in range(args.rounds):
            sides = ["sync", "driver"] if number % 2 == 0 else ["driver", "sync"]
            for side in sides:
                server.empty()
                if side == "sync":
                    syncs.append(measure.sync(binary, config))
                    if server.size() < whole:
                        raise SystemExit(f"sync left {server.size()}, not {whole}")
                else:
                    drivers.append(server.write(load))
            measure.say(f"first load {number + 1}: sync {syncs[-1].seconds:.2f} s ({syncs[-1].cpu_seconds:.2f} s of CPU), driver {drivers[-1]:.2f} s")
        server.empty()
        measure.sync(binary, config)
        crawls, merges, operations = [], [], []
        for crawl in range(args.rounds + 1):
            measure.run([*silver, "crawl", lake, "--seed", crawl + 1])
            done = measure.sync(binary, config)
            films = [(s, rows) for s, rows in server.nodes({"Movie": keys["Movie"]})] + [*server.relationships(keys, merge=True, of="Movie")]
            merged = server.write(films)
            if crawl == 0:
                continue  # It warms the server.
            crawls.append(done)
            merges.append(merged)
            operations.append(sum(t["upserts"] + t["deletes"] for table in done.json()["tables"] for t in table["targets"]))
            measure.say(f"crawl {crawl}: sync {done.seconds:.3f} s ({operations[-1]} operations), driver {merged:.2f} s ({sum(len(r) for _, r in films)} rows)")
        first = measure.median(drivers) / measure.median([run.seconds for run in syncs])
        change = measure.median(merges) / measure.median([run.seconds for run in crawls])
        measure.report(
            "neo4j", args,
            [("first load: driver / sync, medians", round(first, 2), ">=", 1.3), ("crawl: driver / sync, medians", round(change, 1), ">=", 20)],
            nodes=whole[0], relationships=whole[1], sync_s=measure.rounded(run.seconds for run in syncs),
            sync_cpu_s=measure.rounded(run.cpu_seconds for run in syncs), driver_s=measure.rounded(drivers),
            crawl_sync_s=measure.rounded(run.seconds for run in crawls), crawl_driver_s=measure.rounded(merges), operations=operations,
            server=server.ask("CALL dbms.components() YIELD versions RETURN versions[0]")[0][0],
        )


if __name__ == "__main__":
    main()
