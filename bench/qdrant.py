"""Points into a Qdrant server over gRPC: the sink against the official Python client's `upload_points`, the same points, in turn.

Both write to the real engine behind its front (`cargo run --release --features servers --example fronts -- qdrant`), each into a new one, and the clock stops
when the server holds all points. Run it with the Python of `tests/servers/qdrant.sh`:

    cargo build --release --features servers --example fronts
    ~/.cache/distributary/tools/qdrant-1.20.0/bin/python bench/qdrant.py --points 20000
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import urlparse

import numpy

import measure

INDEXES = [("_table", "keyword"), ("_record", "keyword"), ("_text_hash", "keyword"), ("id", "integer"), ("title", "keyword"),
           ("year", "integer"), ("genres", "keyword")]


@contextlib.contextmanager
def front(program):
    child = subprocess.Popen([program, "qdrant"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child.stdout.readline().strip()
    finally:
        child.stdin.close()
        child.wait()


def make(directory, count, dimensions):
    """Points as the sink would make them: payload columns and unit vectors."""
    random = numpy.random.default_rng(7)
    vectors = random.standard_normal((count, dimensions), dtype=numpy.float32)
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    vectors.tofile(directory / "vectors.f32")
    points = [
        {"id": n, "title": f"The film of number {n}", "year": 1900 + n % 125, "genres": [f"genre {n % 19}", f"genre {n % 7}"],
         "_text_hash": f"{n:032x}"}
        for n in range(count)
    ]
    (directory / "points.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return points, vectors


def client(address):
    from qdrant_client import QdrantClient

    url = urlparse(address)
    return QdrantClient(host=url.hostname, grpc_port=url.port, prefer_grpc=True, https=False, check_compatibility=False, timeout=600)


def python(program, points, vectors, wait):
    """`upload_points` with the client's usual batches into a collection with the same indexes."""
    from qdrant_client import models

    with front(program) as address:
        c = client(address)
        c.create_collection("titles", models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE))
        for name, kind in INDEXES:
            c.create_payload_index("titles", name, models.PayloadSchemaType(kind), wait=True)
        more = lambda n: {"_table": "movies", "_record": f"{n:032x}", "_chunk": 0, "_chunks": 1, "_start": 0, "_end": 9,
                          "_model": "bench@1", "_version": 1, "_probe": [0.1, 0.2]}
        structs = [models.PointStruct(id=str(uuid.uuid5(uuid.NAMESPACE_URL, str(point["id"]))), vector=vector.tolist(), payload={**point, **more(point["id"])})
                   for point, vector in zip(points, vectors)]
        begin = time.perf_counter()
        c.upload_points("titles", structs, wait=wait)
        while c.count("titles", exact=True).count < len(points):
            time.sleep(0.01)
        return time.perf_counter() - begin


def sink(program, directory, count):
    with front(program) as address:
        done = subprocess.run([program, "load-qdrant", address, directory], capture_output=True, text=True, check=True)
        c = client(address)
        name = next(one.name for one in c.get_collections().collections if one.name.startswith("titles__"))
        if c.count(name, exact=True).count != count:
            sys.exit("not all points are there")
        return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=measure.ROOT / "target" / "release" / "examples" / "fronts", help="the fronts")
    parser.add_argument("--points", type=int, default=20_000, help="how many points (default %(default)s)")
    parser.add_argument("--dimensions", type=int, default=384, help="of a vector (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs (default %(default)s)")
    args = parser.parse_args()
    program = args.program.resolve()
    times = {"the sink": [], "upload_points": [], "upload_points(wait=True)": []}
    with tempfile.TemporaryDirectory(prefix="distributary-bench-") as directory:
        points, vectors = make(Path(directory), args.points, args.dimensions)
        for _ in range(args.rounds):
            times["the sink"].append(sink(program, directory, args.points))
            times["upload_points"].append(python(program, points, vectors, wait=False))
            times["upload_points(wait=True)"].append(python(program, points, vectors, wait=True))
    for who, seconds in times.items():
        middle = measure.median(seconds)
        print(f"{who}: {args.points / middle:.0f} points/s ({middle:.2f} s, median of {args.rounds}; {', '.join(f'{s:.2f}' for s in seconds)})")
    ours = measure.median(times["the sink"])
    for who in list(times)[1:]:
        print(f"the sink against {who}: × {measure.median(times[who]) / ours:.2f}")


if __name__ == "__main__":
    main()
