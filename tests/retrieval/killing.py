"""A writer of a case store that is killed again and again: what it acknowledged, what is left.

Run by test_store_kills.py: ``python killing.py URL JOB:KILLS...`` prints a line of JSON for each
kill. The writer is forked, because starting Python takes longer than what it is killed at.
"""

import json
import os
import random
import signal
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
from sqlalchemy import make_url

from medshadow.retrieval import CaseStore, ExactSearch, jpeg_thumbnail
from medshadow.retrieval.database import writing

MOST, NUMBERED = 400, 7
_draws = np.random.default_rng(3)
IDS = [f"case-{i:04}" for i in range(MOST)]
CASES = pd.DataFrame({"case_id": IDS, "group": [f"group-{i}" for i in IDS], "label": "nv"})
VECTORS = _draws.normal(size=(MOST, 4)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
JPEGS = [jpeg_thumbnail(pixels) for pixels in _draws.integers(0, 256, (MOST, 6, 8, 3), np.uint8)]


def add(store):
    """Import all cases, going on where it was; tells how many are in."""
    for last in range(len(store) + 4, MOST + 1, 4):
        store.add(CASES[:last], VECTORS[:last], model_digest="m1", thumbnails=JPEGS[:last],
                  resume=True, batch_size=3, by="import")  # fmt: skip
        yield last


def after_adding(store):
    """Which cases are there, and how many of them have their picture."""
    return {"kept": store.frame()["case_id"].tolist(), "whole": _pictures(store)}


def update(store):
    """Number the first cases in turns; tells the last number."""
    for number in count(max(_numbers(store).values(), default=-1) + 1):
        store.update(IDS[number % NUMBERED], metadata={"number": number}, by="numbering")
        yield number


def after_updating(store):
    """The number of each case, how many numbers are on the trail, whether all vectors are there."""
    there, expected = np.sort(store.embeddings(), axis=0), np.sort(VECTORS[: len(store)], axis=0)
    return {
        "numbers": _numbers(store),
        "entries": int((store.trail()["action"] == "update").sum()),
        "whole": bool((there == expected).all()),
    }


def withdraw(store):
    """Withdraw one case after the other, beside a file of vectors; tells which."""
    ExactSearch(store)
    for case_id in store.frame()["case_id"]:
        store.withdraw(case_id, by="withdrawing")
        yield case_id


def withdraw_until(line):
    """Withdraw a case, killed in that line of the store's own code; tells how many there were."""

    def work(store):
        case_id = store.frame()["case_id"][0]
        lines = _killed_at(line)
        store.withdraw(case_id, by="withdrawing")
        sys.settrace(None)
        yield next(lines)

    return work


def after_withdrawing(store):
    """How many cases are there, how many are gone, and of which of those some bytes are left."""
    kept, gone = set(store.frame()["case_id"]), len(store.withdrawn())
    return {
        "kept": len(kept),
        "gone": gone,
        "whole": _pictures(store),
        "left": left_of(store._engine.url, set(IDS[: len(kept) + gone]) - kept),
    }


def left_of(url, case_ids):
    """Those of some cases of which a SQLite store, its log or its vectors still hold something."""
    if url.get_backend_name() != "sqlite":
        return []
    files = sorted(Path(url.database).parent.glob("cases.db*"))
    content = b"".join(file.read_bytes() for file in files)
    parts = {
        i: (i.encode(), VECTORS[IDS.index(i)].tobytes(), JPEGS[IDS.index(i)]) for i in case_ids
    }
    return sorted(i for i, secrets in parts.items() if any(part in content for part in secrets))


def killed_in_time(url, work, draw):
    """Kill a writer anywhere up to its fourth step: (whether it was, what it acknowledged)."""
    told, child = _started(url, work)
    lines, steps = b"", draw.randrange(4)
    while lines.count(b"\n") <= steps and (part := os.read(told, 100)):
        lines += part
    time.sleep(draw.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    return _ended(told, child, lines)


def _started(url, work):
    told, acknowledge = os.pipe()
    child = os.fork()
    if child:
        os.close(acknowledge)
        return told, child
    try:
        with CaseStore(url) as store:
            os.write(acknowledge, b"open\n")
            for done in work(store):
                os.write(acknowledge, f"{done}\n".encode())
        os._exit(0)
    finally:
        os._exit(1)


def _ended(told, child, lines=b""):
    while part := os.read(told, 65536):
        lines += part
    os.close(told)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), lines.decode().split()[1:]


def _killed_at(line):
    lines = count(1)

    def trace(frame, event, _):
        if "/medshadow/retrieval/" not in frame.f_code.co_filename:
            return None
        if event == "line" and next(lines) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    return lines


def _numbers(store):
    frame = store.frame()
    if "number" not in frame:
        return {}
    there = frame[frame["number"].notna()]
    return dict(zip(there["case_id"], there["number"].astype(int).tolist(), strict=True))


def _pictures(store):
    return sum(store.thumbnail(case_id) is not None for case_id in store.frame()["case_id"])


def _after(url, look, killed, acknowledged, left=()):
    with CaseStore(url) as store:
        with writing(store._engine, by=""):
            pass  # a server may still be at what the killed one asked last; now it is through
        return {"killed": killed, "acknowledged": acknowledged, "left_before": list(left),
                **look(store), "wrong": store.verify()}  # fmt: skip


def main(url, *jobs):
    """Do each job with so many kills."""
    draw, gone = random.Random(11), set()
    for job, kills in (each.split(":") for each in jobs):
        if job == "lines":
            _, (lines,) = _ended(*_started(url, withdraw_until(0)))
        for kill in range(int(kills)):
            if job == "lines":
                at = int(lines) * (kill + 1) // (int(kills) + 1)
                found = _ended(*_started(url, withdraw_until(at)))
            else:
                found = killed_in_time(url, globals()[job], draw)
            gone |= set(found[1]) if job == "withdraw" else set()
            left = left_of(make_url(url), gone)
            look = {"add": after_adding, "update": after_updating}.get(job, after_withdrawing)
            print(json.dumps({"job": job, **_after(url, look, *found, left)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
