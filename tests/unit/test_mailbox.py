"""A request's mailbox: who is a slow reader, and who isn't."""

from __future__ import annotations

import asyncio

from tailrace.server.mailbox import Mailbox


def test_a_burst_is_no_slow_reader_but_what_nobody_reads_is() -> None:
    mailbox = Mailbox(bound=10)
    cut: list[bool] = []
    mailbox.on_overflow = lambda: cut.append(True)

    async def scenario() -> None:
        for token in range(1000):
            mailbox.put((0, token, None))
        mailbox.tick()
        assert len(await mailbox.take()) == 1000
        mailbox.tick()
        assert not cut, "it was read within a tick"
        for token in range(11):
            mailbox.put((0, token, None))
        mailbox.tick()
        mailbox.tick()
        mailbox.tick()
        assert cut == [True]
        mailbox.put((0, 99, None))
        assert len(await mailbox.take()) == 11, "nothing is taken after that"

    asyncio.run(scenario())
