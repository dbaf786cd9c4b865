"""The worker pool: bounded, in time, and never in the event loop's way."""

import asyncio
import threading

import pytest

from medshadow.service import Problem
from medshadow.service.settings import Limits
from medshadow.service.workers import Workers


@pytest.fixture
def workers_within():
    """Two workers, room for one more, and so many seconds for each."""
    started = []

    def start(seconds):
        started.append(Workers(Limits(workers=2, queue=1, seconds=seconds)))
        return started[0]

    yield start
    for workers in started:
        workers.close()


@pytest.fixture
def gate():
    """What work waits for; open at the end, or a failing test would leave its workers waiting."""
    event = threading.Event()
    yield event
    event.set()


def test_work_beyond_the_queue_is_refused_at_once(workers_within, gate):
    workers = workers_within(seconds=600)

    async def crowd():
        waiting = [asyncio.create_task(workers.run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            await workers.run(gate.wait)
        gate.set()
        await asyncio.gather(*waiting)
        assert await workers.run(lambda: 5) == 5
        return refused.value

    problem = asyncio.run(crowd())
    assert problem.status_code == 503
    assert problem.headers["Retry-After"]


def test_work_that_takes_too_long_keeps_its_place_until_it_ends(workers_within, gate):
    workers = workers_within(seconds=0.3)

    async def slow():
        crowd = [workers.run(gate.wait) for _ in range(3)]
        answers = await asyncio.gather(*crowd, return_exceptions=True)
        with pytest.raises(Problem):  # both workers are still at it, one waits
            await asyncio.gather(*(workers.run(lambda: 1) for _ in range(2)))
        gate.set()
        while workers.pending:
            await asyncio.sleep(0.01)
        return answers, await workers.run(lambda: 7)

    answers, after = asyncio.run(slow())
    assert {answer.status_code for answer in answers} == {503}
    assert after == 7


def test_the_event_loop_goes_on_while_workers_work(workers_within, gate):
    workers = workers_within(seconds=600)

    async def both():
        work = asyncio.create_task(workers.run(lambda: gate.wait(60)))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not work.done()
        gate.set()  # by the loop itself: it was free while the worker waited
        return await work

    assert asyncio.run(both())
