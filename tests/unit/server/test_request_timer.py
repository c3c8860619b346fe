"""The timer of all running requests."""

from __future__ import annotations

import asyncio

from tailrace.server.request_timer import RequestTimer


class Request:
    def __init__(self, timer: RequestTimer, *, fails: bool) -> None:
        self.ticks = 0
        self.defects: list[Exception] = []
        self._timer = timer
        self._fails = fails

    def on_tick(self, seconds: float) -> None:
        self.ticks += 1
        if self._fails:
            raise ValueError("a defect")
        if self.ticks == 3:
            self._timer.remove(self)

    def on_defect(self, error: Exception) -> None:
        self.defects.append(error)
        raise RuntimeError("the report fails too")


def test_a_request_with_a_defect_is_visited_no_more_and_others_are() -> None:
    async def run() -> None:
        timer = RequestTimer(0.004)
        good, bad = Request(timer, fails=False), Request(timer, fails=True)
        timer.add(good)
        timer.add(bad)
        ticked = asyncio.Event()
        ticks: list[float] = []

        def before(seconds: float) -> None:
            ticks.append(seconds)
            if len(ticks) == 5:
                ticked.set()

        task = asyncio.create_task(timer.run(before))
        await asyncio.wait_for(ticked.wait(), 30.0)
        task.cancel()
        assert (good.ticks, good.defects) == (3, [])
        assert bad.ticks == 1
        assert [type(error) for error in bad.defects] == [ValueError]

    asyncio.run(run())
