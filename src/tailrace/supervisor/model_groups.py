"""The engines of all models that are loaded: obeys the HTTP process's orders, and reports each change of a phase.

It decides nothing about which models are loaded. An order is right in every phase of its model:

- To load a model that starts or serves reports it again. One that stops is started after its end. One that failed is
  tried again.
- To unload a model that isn't there reports it, and forgets why it has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog

from tailrace.errors import ConfigurationError
from tailrace.serving.control import LoadModel, ModelReport, ReportModels, UnloadModel
from tailrace.serving.model_spec import ModelSpec
from tailrace.supervisor.engine_group import EngineGroup

#: Makes a model's group, not yet started. Raises ConfigurationError when it can't be loaded on this machine now.
MakeGroup = Callable[[ModelSpec], EngineGroup]

#: The name of no model: its report is the end of all models' reports.
_END = ""


class ModelGroups:
    """See the module."""

    def __init__(self, make: MakeGroup, start: Callable[[EngineGroup], None], changed: Callable[[str], None]) -> None:
        """``start``: starts the group's processes. ``changed``: is told the name of each model with news."""
        self._make = make
        self._start = start
        self._changed = changed
        self._groups: dict[str, EngineGroup] = {}
        self._refused: dict[str, str] = {}  #: why a model couldn't even be planned
        self._log = structlog.get_logger()

    def __iter__(self) -> Iterator[EngineGroup]:
        return iter(tuple(self._groups.values()))

    def report(self, name: str) -> ModelReport:
        """The model's report; one without a group is unloaded or has failed."""
        if (group := self._groups.get(name)) is not None:
            return group.report
        reason = self._refused.get(name)
        return ModelReport(name=name, phase="unloaded" if reason is None else "failed", reason=reason or "")

    def obey(self, order: LoadModel | UnloadModel | ReportModels) -> None:
        """Carry out the order."""
        if isinstance(order, LoadModel):
            self.load(order.spec)
        elif isinstance(order, UnloadModel):
            self.unload(order.name)
        else:
            for name in (*self._groups, *self._refused, _END):
                self._changed(name)

    def load(self, spec: ModelSpec) -> None:
        """Load the model, in whatever phase it is."""
        group = self._groups.get(spec.name)
        if group is not None and not group.is_wanted and group.is_running:
            group.again = spec
            group.phase, group.reason = "stopping", ""
        elif group is None or not group.is_wanted:
            self._begin(spec)
        self._changed(spec.name)

    def unload(self, name: str) -> None:
        """Unload the model, in whatever phase it is."""
        self._refused.pop(name, None)
        group = self._groups.get(name)
        if group is not None:
            group.again = None
            if group.is_wanted:
                self._log.info("a model is unloaded", model=name)
                group.end("stopping")
            else:
                group.phase, group.reason = "stopping", ""
            self._settle(group)
        self._changed(name)

    def fail(self, group: EngineGroup, reason: str) -> None:
        """Give the model up until it is ordered again."""
        group.fail(reason)
        self._settle(group)
        self._changed(group.name)

    def look(self, now: float) -> None:
        """Take the phases from the engines' pages, and their memory from the kernel."""
        for group in self:
            if group.look(now):
                self._changed(group.name)

    def kill_late(self, now: float) -> None:
        """Kill engines that don't end in time."""
        for group in self:
            for engine in group.kill_late(now):
                self._log.warning(f"the {engine.name} process didn't end in time; killing it")

    def on_end(self, group: EngineGroup) -> None:
        """A process has ended that wasn't wanted any more."""
        before = group.phase
        self._settle(group)
        if self._groups.get(group.name) is not group or group.phase != before:
            self._changed(group.name)

    def _begin(self, spec: ModelSpec) -> None:
        if (old := self._groups.pop(spec.name, None)) is not None:
            old.forget()
        self._refused.pop(spec.name, None)
        try:
            group = self._make(spec)
        except ConfigurationError as error:
            self._log.error("the model can't be served", model=spec.name, reason=str(error))
            self._refused[spec.name] = str(error)
            return
        self._groups[spec.name] = group
        self._start(group)

    def _settle(self, group: EngineGroup) -> None:
        """Where the last process of a group that isn't wanted has ended: forget it, or start the model again."""
        if group.is_wanted or group.is_running:
            return
        group.kill_at = None
        if group.again is not None:
            self._begin(group.again)
        elif group.phase == "stopping":
            group.forget()
            del self._groups[group.name]
