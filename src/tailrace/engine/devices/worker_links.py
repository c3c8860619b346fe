"""The figures of a placed model's workers: of their devices, as they report them, and of the links to them."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.engine.devices.link_meter import LinkMeter
from tailrace.engine.devices.worker_link import WorkerLink
from tailrace.protocol import WorkerFigures
from tailrace.worker_protocol.device_reading import bounded


class WorkerLinks:
    """See the module. Its calls are made by the engine's loop, and never wait."""

    def __init__(self, links: Sequence[WorkerLink]) -> None:
        """``links``: the connections to the workers' status ports, over which others listen. The model is loaded."""
        self._workers = [(link, LinkMeter(link.endpoint)) for link in links]

    def begin_step(self) -> None:
        """The bytes since the last step were no step's: states that moved, embedding passes."""
        for _, meter in self._workers:
            meter.count("other")

    def end_step(self, *, with_prompt: bool) -> None:
        """A step is computed. ``with_prompt``: there were prompt tokens in it."""
        for _, meter in self._workers:
            meter.count("prompt" if with_prompt else "decode", steps=1)

    def figures(self) -> tuple[WorkerFigures, ...]:
        """Those of each worker now."""
        return tuple(
            WorkerFigures(
                worker=link.endpoint,
                devices=bounded(link.status.hardware),
                link=meter.figures,
                receiving_seconds=link.status.sending_seconds,
            )
            for link, meter in self._workers
        )
