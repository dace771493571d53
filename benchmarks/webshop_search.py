"""WebShop's search at several sizes of catalogue: time and memory of building, latency, and the ratio to plain Python.

    python benchmarks/webshop_search.py [--sizes 1000 100000 1000000] [--queries 200] [--baseline-up-to 100000]

The products are the generated shop's, each with a description of `--words` more words, drawn by Zipf's law from 200,000
invented ones, so that texts and vocabulary are about as large as scraped ones. Times are processor time of one core, so
that other work on the machine does not change them. Each size is built and searched in a process of its own: "memory"
is the most it held while building (mapped file pages included), "search memory" what a second process holds that only
opens the catalogue and searches. The baseline is BM25 over dictionaries of Python lists, of the same terms. Queries are
attributes, kind and options of generated goals, none asked twice.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ipr.envs.webshop import generate
from ipr.envs.webshop.analysis import terms
from ipr.envs.webshop.catalogue import document, on_disk, read
from ipr.envs.webshop.goods import Product
from ipr.envs.webshop.search import K1, B, kept_length
from ipr.envs.webshop.wares import SYLLABLES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--words", type=int, default=80, help="added to each description")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--baseline-up-to", type=int, default=100_000, help="largest catalogue that plain Python reads")
    parser.add_argument("--part", choices=("build", "search", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        part = {"build": build, "search": search, "plain": plain}[args.part]
        print(json.dumps(part(args.folder, args.sizes[0], args.words, args.queries)))
        return
    print(
        "| products | build s | memory MB | on disk MB | search ms, mean | p95 | search memory MB | plain ms | ratio |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:

            def run(part: str, size: int = size, folder: str = folder) -> dict[str, Any]:
                given = ["--sizes", str(size), "--words", str(args.words), "--queries", str(args.queries)]
                command = [sys.executable, __file__, *given, "--folder", f"{folder}/catalogue", "--part", part]
                return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

            built, ours = run("build"), run("search")
            theirs = run("plain") if size <= args.baseline_up_to else None
        shown = f"{theirs['mean']:.2f} | {theirs['mean'] / ours['mean']:.0f}" if theirs else " | "
        print(
            f"| {size:,} | {built['seconds']:.1f} | {built['memory']:.0f} | {built['disk']:.0f} | {ours['mean']:.2f} "
            f"| {ours['p95']:.2f} | {ours['memory']:.0f} | {shown} |",
            flush=True,
        )
        if theirs:
            print(f"  same top 10 as plain Python: {same(ours['top'], theirs['top'])} of {args.queries}", flush=True)


def products(size: int, words: int) -> Iterator[Product]:
    rng = Random(1)
    vocabulary = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 5))) + str(i % 7 or "") for i in range(200_000)]
    weights = list(accumulate(1 / (i + 10) for i in range(len(vocabulary))))
    own = generate.products()
    for i in range(size):
        more = " ".join(rng.choices(vocabulary, cum_weights=weights, k=words))
        one = own[i % len(own)]
        yield replace(one, asin=f"B{i:09d}", description=f"{one.description} {more}")


def asked(count: int) -> list[str]:
    goals = (generate._draw(task_id, 0) for task_id in generate.task_ids("pretrain"))
    found = dict.fromkeys(" ".join([*goal.attributes, goal.query, *map(str, goal.options)]) for goal in goals)
    return list(found)[:count]


def memory() -> float:
    """The most this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build(folder: Path, size: int, words: int, _: int) -> dict[str, Any]:
    making = time.process_time()
    for _product in products(size, words):
        pass
    making = time.process_time() - making  # making the texts is no part of building
    start = time.process_time()
    on_disk(folder, lambda _: products(size, words))
    seconds = time.process_time() - start - making
    disk = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    return {"seconds": seconds, "memory": memory(), "disk": disk}


def timed(queries: list[str], find: Callable[[str], Sequence[int]]) -> dict[str, Any]:
    times, top = [], []
    find("warming up")
    for query in queries:
        start = time.process_time()
        top.append(list(find(query))[:10])
        times.append(1000 * (time.process_time() - start))
    return {"mean": statistics.mean(times), "p95": sorted(times)[int(0.95 * len(times))], "top": top}


def search(folder: Path, size: int, words: int, queries: int) -> dict[str, Any]:
    wanted, catalogue = asked(queries), read(folder)
    return {**timed(wanted, catalogue.search), "memory": memory()}


def plain(folder: Path, size: int, words: int, queries: int) -> dict[str, Any]:
    """The baseline: the same formula, terms and lengths, one posting at a time."""
    postings: dict[str, list[tuple[int, int]]] = {}
    lengths = []
    for i, product in enumerate(products(size, words)):
        counts = Counter(terms(document(product)))
        lengths.append(sum(counts.values()))
        for term, tf in counts.items():
            postings.setdefault(term, []).append((i, tf))
    average = sum(lengths) / len(lengths)
    norms = [K1 * (1 - B + B * length / average) for length in kept_length(np.array(lengths)).tolist()]

    def find(query: str) -> list[int]:
        scores: dict[int, float] = {}
        for term in terms(query):
            found = postings.get(term, [])
            idf = math.log(1 + (size - len(found) + 0.5) / (len(found) + 0.5))
            for i, tf in found:
                scores[i] = scores.get(i, 0.0) + idf * tf / (tf + norms[i])
        return heapq.nsmallest(50, scores, key=lambda i: (-scores[i], i))

    return timed(asked(queries), find)


def same(ours: list[list[int]], theirs: list[list[int]]) -> int:
    return sum(set(a) == set(b) for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
