"""The thread beside the event loop: jobs in order, each outcome on the loop, and an end."""

import asyncio
import contextlib
import threading
from functools import partial

import pytest

from service.common.beside import Beside


async def test_jobs_run_in_order_in_one_other_thread_and_their_results_come_back():
    with contextlib.closing(Beside("t")) as beside:
        ran: list[int] = []

        def job(n: int) -> int:
            ran.append(n)
            return threading.get_ident()

        threads = await asyncio.gather(*(beside.submit(partial(job, n)) for n in range(20)))
    assert ran == list(range(20))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_an_exception_of_a_job_is_raised_where_it_is_awaited_and_the_next_job_runs():
    with contextlib.closing(Beside("t")) as beside:
        failing = beside.submit(lambda: 1 / 0)
        assert await beside.submit(lambda: "next") == "next"
        with pytest.raises(ZeroDivisionError):
            await failing


async def test_a_job_whose_waiter_is_cancelled_runs_all_the_same():
    ran = threading.Event()
    with contextlib.closing(Beside("t")) as beside:
        beside.submit(ran.set).cancel()
        await beside.submit(lambda: None)
    assert ran.is_set()


async def test_closing_waits_for_the_jobs_and_takes_no_more():
    ran: list[int] = []
    beside = Beside("t")
    beside.submit(lambda: ran.append(1))
    beside.close()
    beside.close()
    assert ran == [1]
    with pytest.raises(RuntimeError, match="closed"):
        beside.submit(lambda: None)


def test_an_outcome_for_a_loop_that_has_closed_is_dropped():
    beside, go_on = Beside("t"), threading.Event()

    async def submit() -> None:
        beside.submit(lambda: go_on.wait(60))

    asyncio.run(submit())
    go_on.set()
    beside.close()
