#!/usr/bin/env python3
"""Memory of `distributary embed` over a million short texts: it must not grow with their number.

    python3 bench/embed/flat.py --binary target/release/distributary --model MODEL_DIR [--texts 1000000] [--precision int8]

Memory is what the process has beside files (`RssAnon`), read when a tenth of the vectors has come and again when all but the last have; the
model's file is mapped, and what of it is in memory (`RssFile`) is told beside. Goal: the second is at most 1.1 times the first. Needs no packages.
"""
import argparse
import json
import os
import subprocess
import sys
import threading
import time

WORDS = "river night house city war woman man film story light train letter harbour winter summer road sea bridge song dance".split()


def feed(pipe, count):
    """No two texts are equal, and each has a few tokens."""
    for number in range(count):
        text = f"{WORDS[number % 20]} {WORDS[number // 20 % 20]} {number}"
        pipe.write((json.dumps(text) + "\n").encode())
    pipe.close()


def memory(pid):
    with open(f"/proc/{pid}/status") as lines:
        told = dict(line.split(":", 1) for line in lines)
    return {name: int(told[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile", "VmHWM")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/distributary")
    parser.add_argument("--model", required=True, help="directory of config.json, tokenizer.json and model.safetensors")
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--precision", default="int8")
    arguments = parser.parse_args()
    environment = {**os.environ, "DISTRIBUTARY_MODEL_DIR": arguments.model}
    command = [arguments.binary, "embed", "--precision", arguments.precision]
    seen, begun, count = {}, time.perf_counter(), arguments.texts
    marks = {count // 10: "at a tenth", count - 1: "at the end"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as program:
        threading.Thread(target=feed, args=(program.stdin, count), daemon=True).start()
        got = 0
        for _ in program.stdout:
            got += 1
            if got in marks:
                seen[marks[got]] = memory(program.pid)
    if program.returncode or got != count:
        raise SystemExit(f"{got} of {count} vectors, exit code {program.returncode}")
    seconds = time.perf_counter() - begun
    ratio = seen["at the end"]["RssAnon"] / seen["at a tenth"]["RssAnon"]
    print(json.dumps({"texts": count, "seconds": round(seconds, 1), **seen, "ratio": round(ratio, 3)}))
    print(f"memory at the end ÷ at a tenth: {ratio:.3f}, goal ≤ 1.1: {'met' if ratio <= 1.1 else 'missed'}")
    sys.exit(ratio > 1.1)


if __name__ == "__main__":
    main()
