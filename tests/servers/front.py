"""A front as a process: `with front("qdrant") as address`. It ends when its standard input does."""

import contextlib
import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def front(name, *options):
    """Starts a front and answers its address. `FRONTS` names another program than `cargo run --features servers --example fronts`."""
    program = shlex.split(os.environ.get("FRONTS", "cargo run --quiet --features servers --example fronts --"))
    child = subprocess.Popen([*program, name, *options], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        address = child.stdout.readline().strip()
        if not address:
            raise SystemExit(f"the front {name} did not start: exit code {child.wait()}")
        yield address
    finally:
        child.stdin.close()
        child.wait()
