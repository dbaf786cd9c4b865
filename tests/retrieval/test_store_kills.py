"""A writer that is killed at any point loses nothing that it acknowledged, and leaves no half."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NUMBERED = 7


@pytest.fixture
def killed(any_store, database):
    """Have a writer killed so many times at each of some jobs; what was found after each kill."""
    any_store.close()

    def kill(*jobs):
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("killing.py"), database, *jobs],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(one["wrong"] == [] for one in found)
        return [[one for one in found if one["job"] == job.split(":")[0]] for job in jobs]

    return kill


def test_no_acknowledged_case_is_lost_and_no_withdrawn_one_is_left(killed, database):
    many = database.startswith("sqlite")
    adding, updating, withdrawing, lines = killed(
        *(("add:20", "update:8", "withdraw:10", "lines:12") if many else
          ("add:10", "update:5", "withdraw:5", "lines:6"))
    )  # fmt: skip
    check_adding(adding)
    check_updating(updating)
    check_withdrawing(withdrawing, lines)


def check_adding(rounds):
    before = 0
    for one in rounds:
        assert one["killed"]
        assert len(one["kept"]) >= max([before, *map(int, one["acknowledged"])])
        assert one["kept"] == [f"case-{i:04}" for i in range(len(one["kept"]))]
        assert one["whole"] == len(one["kept"])
        before = len(one["kept"])
    assert sum(bool(one["acknowledged"]) for one in rounds) >= len(rounds) / 3


def check_updating(rounds):
    last = -1
    for one in rounds:
        assert one["killed"]
        assert one["whole"]
        acknowledged = max([last, *map(int, one["acknowledged"])])
        last = max(one["numbers"].values(), default=-1)
        assert last in (acknowledged, acknowledged + 1)  # one more may be in, unacknowledged
        assert one["entries"] == last + 1
        newest = {f"case-{n % NUMBERED:04}": n for n in range(last + 1)}
        assert one["numbers"] == newest
    assert last >= len(rounds) / 3


def check_withdrawing(in_time, at_lines):
    in_all, gone = in_time[0]["kept"] + in_time[0]["gone"], 0
    for one in [*in_time, *at_lines]:
        assert one["killed"]
        assert one["left_before"] == []  # acknowledged is erased, whatever was killed after it
        assert one["left"] == []  # and what was cut short is erased on opening
        assert one["whole"] == one["kept"]
        assert one["kept"] + one["gone"] == in_all
        if one["job"] == "withdraw":
            acknowledged = gone + len(one["acknowledged"])
            assert one["gone"] in (acknowledged, acknowledged + 1)
        gone = one["gone"]
    # Killed early a withdrawal did nothing, killed late everything.
    steps = [later["gone"] - earlier["gone"] for earlier, later in pairwise(at_lines)]
    assert set(steps) == {0, 1}
    assert steps == sorted(steps)
