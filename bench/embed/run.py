"""Texts a second and exactness of `distributary embed` beside ONNX Runtime and sentence-transformers.

    python run.py --binary target/release/distributary --texts movies.jsonl.gz --model MODEL_DIR [--onnx DIR] [--threads 1,2] [--rounds 5]

Each round runs every contestant once, in an order that turns from round to round, each in a process of its own with its model loaded
before the clock starts; tokenizing is inside the clock for all. The table shows medians, and ratios as medians of the rounds' ratios.
ONNX Runtime gets the model as `make_onnx.py` writes it: of plain and fused graph, and of batch sizes, whichever is fastest here.
Vectors are compared with those of ONNX Runtime in fp32.

Needs numpy, onnxruntime, tokenizers; sentence-transformers is used when it can be imported.
"""
import argparse
import gzip
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCHES = (8, 16, 32)
# Texts that find the fastest graph and batch size before the rounds.
TRIAL = 200
LATENCY_TEXT = "a machine takes the place of a woman"
LATENCY_RUNS = 300


def texts_of(path, count, model):
    """The first overviews, cut to what the model takes, so that all contestants do the same work."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    opener = gzip.open if str(path).endswith(".gz") else open
    found = []
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            text = record if isinstance(record, str) else record.get("overview") or (record.get("movie_detail") or {}).get("overview")
            if not text:
                continue
            encoding = tokenizer.encode(text)
            if len(encoding.ids) > 256:
                text = text[: encoding.offsets[250][1]]
            found.append(text)
            if len(found) == count:
                break
    return found


class Onnx:
    """ONNX Runtime, sorted batches padded to their longest."""

    def __init__(self, path, model, threads, batch):
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()
        self.batch = batch

    def embed(self, texts):
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        out = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(order), self.batch):
            some = order[start : start + self.batch]
            encodings = self.tokenizer.encode_batch([texts[i] for i in some])
            ids = np.array([e.ids for e in encodings], np.int64)
            mask = np.array([e.attention_mask for e in encodings], np.int64)
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            states = self.session.run(None, given)[0]
            sums = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
            out[some] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return out


class Transformers:
    """sentence-transformers on the CPU."""

    def __init__(self, model, threads):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self.model = SentenceTransformer(str(model), device="cpu")

    def embed(self, texts):
        return self.model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)


def contestant(spec):
    """Runs in a process of its own: seconds for all texts, and where asked for their vectors or latencies."""
    texts = json.loads(Path(spec["texts"]).read_text())
    if spec["kind"] == "onnx":
        made = Onnx(spec["path"], spec["model"], spec["threads"], spec["batch"])
    else:
        made = Transformers(spec["model"], spec["threads"])
    made.embed(texts[:16])
    if spec.get("latency"):
        times = []
        for _ in range(LATENCY_RUNS):
            begun = time.perf_counter()
            made.embed([LATENCY_TEXT])
            times.append((time.perf_counter() - begun) * 1e3)
        return {"latency": times}
    begun = time.perf_counter()
    vectors = made.embed(texts[: spec.get("count", len(texts))])
    seconds = time.perf_counter() - begun
    if spec.get("vectors"):
        np.save(spec["vectors"], vectors)
    return {"seconds": seconds}


def in_process(spec):
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true" if spec["threads"] > 1 else "false", "RAYON_NUM_THREADS": str(spec["threads"])}
    command = [sys.executable, __file__, "--contestant", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{spec}: {done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ours(arguments, texts, precision, threads, vectors=None):
    environment = {**os.environ, "DISTRIBUTARY_MODEL_DIR": str(arguments.model)}
    command = [arguments.binary, "embed", "--precision", precision, "--threads", str(threads), "--format", "npy", "--stats"]
    lines = "".join(json.dumps(text) + "\n" for text in texts).encode()
    done = subprocess.run(command, input=lines, capture_output=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr.decode()[-800:])
    if vectors:
        np.save(vectors, np.load(io.BytesIO(done.stdout)))
    return json.loads(done.stderr.splitlines()[-1])


def our_latencies(arguments, precision, threads):
    """One text at a time through the pipe: the program answers each line before it reads the next, so the pipe is inside."""
    environment = {**os.environ, "DISTRIBUTARY_MODEL_DIR": str(arguments.model)}
    command = [arguments.binary, "embed", "--precision", precision, "--threads", str(threads), "--each"]
    line = (json.dumps(LATENCY_TEXT) + "\n").encode()
    times = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as program:
        for _ in range(LATENCY_RUNS + 16):
            begun = time.perf_counter()
            program.stdin.write(line)
            program.stdin.flush()
            program.stdout.readline()
            times.append((time.perf_counter() - begun) * 1e3)
        program.stdin.close()
    return times[16:]


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def percentile(times, part):
    return sorted(times)[int(len(times) * part)]


def fastest(arguments, texts, names, threads):
    """The graph and batch size that ONNX Runtime is fastest with."""
    trials = [
        {"kind": "onnx", "path": str(Path(arguments.onnx) / name), "model": arguments.model, "threads": threads, "batch": batch, "texts": texts, "count": TRIAL}
        for name in names
        if (Path(arguments.onnx) / name).exists()
        for batch in BATCHES
    ]
    best = min(trials, key=lambda spec: in_process(spec)["seconds"])
    return {key: value for key, value in best.items() if key != "count"}


def measure(arguments, texts, file, threads, work):
    """One table: all contestants with so many threads."""
    contestants = {
        "ONNX Runtime fp32": fastest(arguments, file, ("fp32.onnx", "fused.onnx"), threads),
        "ONNX Runtime int8": fastest(arguments, file, ("int8.onnx", "int8_fused.onnx"), threads),
    }
    try:
        import sentence_transformers  # noqa: F401

        contestants["sentence-transformers"] = {"kind": "transformers", "model": arguments.model, "threads": threads, "texts": file}
    except ImportError:
        pass
    ours_by_name = {f"distributary {precision}": precision for precision in ("f32", "bf16", "int8")}
    names = [*contestants, *ours_by_name]
    rates = {name: [] for name in names}
    for turn in range(arguments.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            vectors = str(work / f"{name}.npy") if turn == 0 else None
            if name in ours_by_name:
                seconds = ours(arguments, texts, ours_by_name[name], threads, vectors)["embed_ms"] / 1e3
            else:
                seconds = in_process({**contestants[name], "vectors": vectors})["seconds"]
            rates[name].append(len(texts) / seconds)
    reference = np.load(work / "ONNX Runtime fp32.npy")
    print(f"\n{threads} thread{'s' if threads > 1 else ''}, {len(texts)} texts, {arguments.rounds} rounds")
    print(f"{'':24}{'texts/s':>9}{'× fp32':>9}{'× int8':>9}{'least cos':>12}{'mean cos':>12}{'p50 ms':>9}{'p99 ms':>9}")
    for name in names:
        ratio = [statistics.median(a / b for a, b in zip(rates[name], rates[f"ONNX Runtime {base}"])) for base in ("fp32", "int8")]
        cosine = cosines(np.load(work / f"{name}.npy"), reference)
        if name in ours_by_name:
            latency = our_latencies(arguments, ours_by_name[name], threads)
        else:
            latency = in_process({**contestants[name], "latency": True})["latency"]
        graph = contestants.get(name, {})
        note = f"  {Path(graph['path']).stem}, batches of {graph['batch']}" if "path" in graph else ""
        print(
            f"{name:24}{statistics.median(rates[name]):9.0f}{ratio[0]:9.2f}{ratio[1]:9.2f}{cosine.min():12.6f}{cosine.mean():12.6f}"
            f"{percentile(latency, 0.5):9.2f}{percentile(latency, 0.99):9.2f}{note}"
        )


def main():
    if sys.argv[1:2] == ["--contestant"]:
        print(json.dumps(contestant(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/distributary")
    parser.add_argument("--texts", required=True, help="JSON lines: strings, or records with an overview; .gz is unpacked")
    parser.add_argument("--model", required=True, help="directory of config.json, tokenizer.json and model.safetensors")
    parser.add_argument("--onnx", default="target/onnx", help="what make_onnx.py wrote")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1500)
    arguments = parser.parse_args()
    work = Path(arguments.onnx)
    texts = texts_of(arguments.texts, arguments.count, arguments.model)
    file = work / "texts.json"
    file.write_text(json.dumps(texts))
    for threads in map(int, arguments.threads.split(",")):
        measure(arguments, texts, str(file), threads, work)


main()
