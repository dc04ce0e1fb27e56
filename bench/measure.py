"""Runs a process and measures it; writes configurations; prints figures.

What every benchmark of this folder needs, and nothing of any single one. Standard library only: a child's peak memory counts from the
moment it is forked, so a process that measures it must be small itself.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TMDB = ROOT / "mappings" / "tmdb.yaml"
MIB = 1024 * 1024


@dataclass
class Run:
    """One process, from start to exit."""

    seconds: float
    peak_mib: float
    cpu_seconds: float
    stdout: str

    def json(self):
        """What it printed, read as JSON."""
        return json.loads(self.stdout)


def run(command, **environment):
    """Runs a command to its end. A failure ends the benchmark with what the command said."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begin = time.perf_counter()
        child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err, env={**os.environ, **environment})
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: exit code {child.returncode}\n{out.read()[-2000:]}\n{err.read()[-4000:]}")
        return Run(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, out.read())


def options(description, **defaults):
    """The options that all benchmarks share; add your own and call `parse_args`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "distributary", help="the program that is measured")
    parser.add_argument("--profile", default="release", help="how it was built: goes into the figures, changes nothing (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=defaults.get("rounds", 3), help="how often each side runs (default %(default)s)")
    parser.add_argument("--work", type=Path, help="where lakes and engines are made (default: a temporary directory, removed afterwards)")
    return parser


@contextlib.contextmanager
def workspace(given):
    """An empty directory for one benchmark. One that was named is kept, and must not hold anything."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="distributary-bench-") as temporary:
            yield Path(temporary)
        return
    given.mkdir(parents=True, exist_ok=True)
    if any(given.iterdir()):
        sys.exit(f"{given} is not empty: name an empty directory with --work")
    yield given.resolve()


def program(given):
    """The program's path, checked."""
    if not os.access(given, os.X_OK):
        sys.exit(f"no program at {given}: build it with `cargo build --release`, or name one with --binary")
    return given.resolve()


def configure(directory, tables, mapping=TMDB, engines=("clickhouse",), embed="off", servers=None):
    """Writes a configuration and answers its path. Engines are under `directory`, but those of which `servers` has an address. `tables` are
    paths by name; others are skipped."""
    urls = {"clickhouse": "chdb:./clickhouse", "graph": "grafeo:./graph", "vectors": "edge:./vectors", **(servers or {})}
    config = {
        "source": {"tables": {name: str(path) for name, path in tables.items()}, "missing_tables": "skip"},
        "mapping": str(mapping),
        **{engine: {"url": urls[engine]} for engine in engines},
        "embed": embed,
        "quarantine": {"url": "./quarantine"},
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "distributary.yaml"
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return path


def sync(binary, config):
    """One `sync` process. A target that failed, or a record in quarantine, ends the benchmark: figures of half a job say nothing."""
    done = run([binary, "sync", "--config", config, "--json"])
    for table in done.json()["tables"]:
        for target in table["targets"]:
            if not target["ok"] or target["quarantined"]:
                sys.exit(f"{table['table']}/{target['target']} was not synced whole: {json.dumps(target)}")
    return done


def sql(binary, config, text):
    """One `sql` process."""
    return run([binary, "sql", "--config", config, "--json", text])


def remove(path):
    """Removes a directory, if there."""
    shutil.rmtree(path, ignore_errors=True)


def median(values):
    """The median, to the thousandth."""
    return round(statistics.median(values), 3)


def rounded(values):
    """Values as they go into the figures."""
    return [round(value, 3) for value in values]


def machine():
    """The machine in few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB / 1024
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def say(text):
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def report(name, args, goals, **figures):
    """Prints the figures as one line of JSON, and the goals as a readable line each. Exit code 1 when a goal is missed.

    `goals` are (what, value, "<=" | ">=" | "==", limit).
    """
    met = {"<=": lambda v, g: v <= g, ">=": lambda v, g: v >= g, "==": lambda v, g: v == g}
    lines = [{"goal": what, "value": value, "limit": f"{sign} {limit}", "met": met[sign](value, limit)} for what, value, sign, limit in goals]
    print(json.dumps({"benchmark": name, "profile": args.profile, "machine": machine(), "goals": lines, **figures}))
    for line in lines:
        print(f"{name}: {line['goal']} = {line['value']} (goal {line['limit']}): {'met' if line['met'] else 'MISSED'}")
    sys.exit(0 if all(line["met"] for line in lines) else 1)
