"""How long a search takes, whole, against a bare matrix product and the exact search of others.

Drawn cases (several images a lesion, in clusters as a trained model makes them) go into a SQLite
store; what is timed is `ExactSearch.search` from the query to the hits, the question to the store
whether anything changed included. Peers get the vectors in memory and answer with row numbers:
no groups, no filter, no ties, no withdrawal. Each round asks all of them, one after the other.
On a busy machine read the CPU time of one thread (`--threads 1`): it hardly depends on the others.

With `--milvus` the same questions go to `MilvusSearch` too, in the same rounds: what it adds is
the way to another process and back. Its CPU time is that of this process alone.

    python benchmarks/search.py --cases 10000 100000 --queries 400
    python benchmarks/search.py --milvus http://127.0.0.1:19530 --queries 100
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import installed
from threadpoolctl import threadpool_limits

from medshadow.retrieval import CaseStore, ExactSearch, Hit, MilvusSearch, Search

DIM = 256
K = 16
# The longest that one search in a hundred may take, in milliseconds.
BARS = {10_000: 5, 100_000: 25, 1_000_000: 150}
FILTERS = {
    "search()": None,
    "search(), half of the cases": "sex=female",
    "search(), 1 in 100": "site=scalp",
}
SITES = ("back", "trunk", "face", "lower extremity", "abdomen", "neck", "foot", "hand", "ear")
CHECKED = 10

Ask = Callable[[np.ndarray], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=400, help="of each kind and size")
    parser.add_argument("--threads", type=int, default=2, help="and as many cores (on Linux)")
    parser.add_argument("--folder", type=Path, help="where the stores are made; a temporary one")
    parser.add_argument("--milvus", help="URI of a server; its token in MEDSHADOW_MILVUS_TOKEN")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    peers = ", ".join(f"{name} {installed(name)}" for name in ("numpy", "faiss-cpu", "usearch"))
    print(
        f"{DIM} dimensions, k = {K}, {options.queries} queries, {options.threads} threads; {peers}"
    )
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        threadpool_limits(options.threads),
    ):
        for cases in options.cases:
            measure(Path(folder) / f"{cases}.db", cases, options)


def measure(path: Path, cases: int, options: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    frame, vectors = drawn_cases(cases, rng)
    chosen = vectors[rng.integers(0, cases, options.queries)]
    queries = unit(chosen + rng.normal(0, 0.03, chosen.shape).astype(np.float32))
    settings = {"name": "drawn", "model_digest": "m", "embedding_dim": DIM, "preprocess": {}}
    with CaseStore.create(path, **settings) as store:
        print(f"\n## {cases:,} cases (load {load()})\n")
        print("| step | s |\n| --- | --- |")
        add = timed(lambda: store.add(frame, vectors, model_digest="m", batch_size=20_000))
        first = timed(lambda: ExactSearch(store))
        later, search = timed(lambda: ExactSearch(store))
        print(f"| adding the cases to the store | {add[0]:.2f} |")
        print(f"| first opening, the vector file is made | {first[0]:.2f} |")
        print(f"| later opening | {later:.2f} |")
        del first
        searches: dict[str, Search] = {"": search}
        if options.milvus:
            searches["Milvus: "] = opened_in_milvus(store, options.milvus)
        print_table(latencies(searches, vectors, queries, options.threads), cases)
        for name, one in searches.items():
            print_catching_up(name, store, one, frame, queries)
            one.close()
        del search, searches
        check_exactness(store, frame, vectors, queries[:CHECKED])
    print(f"\nload {load()}")


def opened_in_milvus(store: CaseStore, uri: str) -> MilvusSearch:
    token = os.environ.get("MEDSHADOW_MILVUS_TOKEN")
    first, search = timed(lambda: MilvusSearch(store, uri, token))
    search.close()
    later, search = timed(lambda: MilvusSearch(store, uri, token))
    print(f"| Milvus: first opening, the collection is filled | {first:.2f} |")
    print(f"| Milvus: later opening | {later:.2f} |")
    return search


def drawn_cases(cases: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Cases of seven diagnoses, three images a lesion, and their vectors."""
    lesion = np.arange(cases) // 3
    label = rng.integers(0, 7, lesion[-1] + 1)[lesion]
    frame = pd.DataFrame(
        {
            "case_id": [f"ISIC_{case:07}" for case in range(cases)],
            "group": [f"HAM_{group:07}" for group in lesion],
            "label": np.array(["nv", "mel", "bkl", "bcc", "akiec", "vasc", "df"])[label],
            "sex": rng.choice(["female", "male"], cases),
            "age": rng.integers(1, 18, cases) * 5.0,
            "site": np.where(rng.random(cases) < 0.01, "scalp", rng.choice(SITES, cases)),
        }
    )
    vectors = rng.standard_normal((7, DIM), dtype=np.float32)[label]
    vectors += rng.standard_normal((lesion[-1] + 1, DIM), dtype=np.float32)[lesion] * 0.7
    vectors += rng.standard_normal((cases, DIM), dtype=np.float32) * 0.4
    return frame, unit(vectors)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def latencies(
    searches: dict[str, Search], vectors: np.ndarray, queries: np.ndarray, threads: int
) -> dict[str, np.ndarray]:
    """Seconds, and seconds of CPU time, that each way of asking took for each query: Q x 2."""
    ways: dict[str, Ask] = {"bare matrix product": lambda query: vectors @ query}
    ways |= {
        engine + name: partial(found, search, where)
        for engine, search in searches.items()
        for name, where in FILTERS.items()
    }
    ways |= peers_of(vectors, threads)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for ask in ways.values():
        for query in queries[:3]:
            ask(query)
    # In rounds, so that a busy spell of the machine meets all of them.
    for some in np.array_split(queries, min(len(queries), 10)):
        for name, ask in ways.items():
            # The threads of the way before spin for a while when their work is done.
            time.sleep(0.3)
            for query in some:
                at, cpu_at = time.perf_counter(), time.process_time()
                ask(query)
                taken[name].append((time.perf_counter() - at, time.process_time() - cpu_at))
    return {name: np.array(seconds) for name, seconds in taken.items()}


def found(search: Search, where: str | None, query: np.ndarray) -> list[Hit]:
    return search.search(query, K, where)


def peers_of(vectors: np.ndarray, threads: int) -> dict[str, Ask]:
    peers: dict[str, Ask] = {}
    if installed("faiss-cpu"):
        import faiss

        faiss.omp_set_num_threads(threads)
        index = faiss.IndexFlatIP(DIM)
        index.add(vectors)
        peers["faiss IndexFlatIP"] = lambda query: index.search(query[None], K)
    if installed("usearch"):
        from usearch.index import search as usearch

        peers["usearch, exact"] = lambda query: usearch(
            vectors, query, K, "ip", exact=True, threads=threads
        )
    return peers


def print_table(taken: dict[str, np.ndarray], cases: int) -> None:
    bare = np.median(taken["bare matrix product"], axis=0)
    bar = BARS.get(cases)
    print("\n| | median, ms | against bare | p99, ms | CPU: median | against bare | p99 | bar |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, seconds in taken.items():
        median, p99 = (np.quantile(seconds, q, axis=0) for q in (0.5, 0.99))
        cells = [
            f"{1000 * value:.2f}"
            for at in (0, 1)
            for value in (median[at], median[at] / bare[at] / 1000, p99[at])
        ]
        verdict = ""
        if bar and name in FILTERS:
            verdict = f"p99 <= {bar}: {'reached' if 1000 * p99[0] <= bar else 'missed'}"
        print(f"| {name} | {' | '.join(cells)} | {verdict} |")


def print_catching_up(
    engine: str, store: CaseStore, search: Search, frame: pd.DataFrame, queries: np.ndarray
) -> None:
    """How long the first search takes after each kind of change."""

    def first_after(change: Callable[[], object]) -> float:
        change()
        return 1000 * timed(lambda: search.search(queries[0], K))[0]

    one = frame["case_id"][0]
    # Withdrawn in the end, and so refused if it came again.
    new = frame[:1].assign(case_id=f"{engine}new")
    vector = search.vector_of(one)[None]
    print(f"\n| {engine}first search after | ms |\n| --- | --- |")
    for name, change in {
        "a case was added": lambda: store.add(new, vector, model_digest="m"),
        "a consent was suspended": lambda: store.set_consent(one, "suspended"),
        "it was given again": lambda: store.set_consent(one, "given"),
        "a case was withdrawn": lambda: store.withdraw(f"{engine}new"),
    }.items():
        print(f"| {name} | {first_after(change):.2f} |")


def check_exactness(
    store: CaseStore, frame: pd.DataFrame, vectors: np.ndarray, queries: np.ndarray
) -> None:
    """Compare the hits with those of every cosine in float64; `frame` in the order added."""
    search = ExactSearch(store)
    groups = frame["group"].to_numpy()
    agreeing = 0
    for query in queries:
        cosine = np.concatenate(
            [
                part.astype(np.float64) @ query / np.linalg.norm(part.astype(np.float64), axis=1)
                for part in np.array_split(vectors, 1 + len(vectors) // 50_000)
            ]
        )
        best = pd.Series(cosine).groupby(groups).max().nlargest(K).index.tolist()
        agreeing += [hit.group for hit in search.search(query, K)] == best
    print(f"\nSame groups in the same order as in float64: {agreeing} of {len(queries)} queries.")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def load() -> str:
    return Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"


if __name__ == "__main__":
    main()
