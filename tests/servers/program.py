"""The program under test, as the scenarios run it: `LAKE_PROGRAM` names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# A command that takes longer hangs.
SECONDS_MAX = 300


def fail(text):
    sys.exit(f"FAILED: {text}")


def check(holds, text):
    """Ends the script where something does not hold."""
    if not holds:
        fail(text)


def say(text):
    print(f"  {text}", flush=True)


class Program:
    """The program under test in one directory, over one lake."""

    def __init__(self, home, lake, environment=None, engines=("clickhouse", "graph", "vectors"), **more):
        home.mkdir(parents=True)
        urls = {"clickhouse": "chdb:./clickhouse", "graph": "grafeo:./graph", "vectors": "edge:./vectors"}
        config = {
            "source": {"root": str(lake)}, "mapping": str(ROOT / "mappings" / "tmdb.yaml"), "embed": "hash",
            **{engine: {"url": urls[engine]} for engine in engines}, **more,
        }
        (home / "distributary.yaml").write_text(json.dumps(config, indent=2))  # JSON is YAML
        self.home, self.environment = home, environment or {}

    def start(self, *words, **environment):
        whole = {**os.environ, **self.environment, **environment}
        whole = {name: value for name, value in whole.items() if value is not None}
        command = [os.environ["LAKE_PROGRAM"], *map(str, words)]
        return subprocess.Popen(command, cwd=self.home, env=whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words, code=0, **environment):
        """Runs a command, which must end with this exit code. Answers all that it printed: stdout, stderr."""
        child = self.start(*words, **environment)
        try:
            out, err = child.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            fail(f"{' '.join(map(str, words))} did not end within {SECONDS_MAX} s")
        check(child.returncode == code, f"{' '.join(map(str, words))}: exit code {child.returncode}, not {code}\n{out[-3000:]}\n{err[-3000:]}")
        return out, err

    def sync(self, code=0, **environment):
        return json.loads(self.run("sync", "--json", code=code, **environment)[0])

    def verify(self):
        """Every target holds what the mapping makes of the lake."""
        targets = json.loads(self.run("verify", "--json")[0])["targets"]
        check(targets, "verify compared nothing")
        return targets


def operations(report):
    """What a sync sent."""
    counts = ("upserts", "deletes", "payload_updates", "texts_embedded")
    return sum(target[count] for table in report["tables"] for target in table["targets"] for count in counts)


def strategies(report):
    return {table["table"]: table["strategy"] for table in report["tables"] if any(t["upserts"] + t["deletes"] for t in table["targets"])}
