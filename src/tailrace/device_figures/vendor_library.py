"""A GPU vendor's library: it is initialised at the first reading, and again after an error of the driver."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from tailrace.worker_protocol.device_reading import DeviceReading

Library = TypeVar("Library")


class VendorLibrary(ABC, Generic[Library]):
    """See the module. A child says how its library is asked."""

    def __init__(self, load: Callable[[], Library]) -> None:
        """``load`` returns the module of the library."""
        self._load = load
        self._library: Library | None = None  #: initialised; None: not yet, or no more

    def read(self) -> list[DeviceReading]:
        """The GPUs now. A GPU that can't be asked is left out.

        Raises what ``load`` raises, and the library's own error where the driver can't be asked. The next call begins
        anew, so a driver that was loaded again is found.
        """
        library = self._library
        if library is None:
            library = self._load()
            self._begin(library)
            self._library = library
        failure = self._failure(library)
        lost: Exception | None = None
        found = []
        try:
            for handle in self._handles(library):
                try:
                    found.append(self._read(library, handle))
                except failure as error:
                    lost = error
            if lost is not None and not found:
                raise lost
        except failure:
            self._library = None
            with contextlib.suppress(failure):
                self._end(library)
            raise
        return found

    @abstractmethod
    def _begin(self, library: Library) -> None:
        """Initialise the library. Raises its error."""

    @abstractmethod
    def _end(self, library: Library) -> None:
        """Shut the library down. Raises its error."""

    @abstractmethod
    def _failure(self, library: Library) -> type[Exception]:
        """The error that the library raises."""

    @abstractmethod
    def _handles(self, library: Library) -> Iterable[Any]:
        """The argument of ``_read`` for each GPU. Raises the library's error."""

    @abstractmethod
    def _read(self, library: Library, handle: Any) -> DeviceReading:
        """One GPU. Raises the library's error where it can't be asked at all."""
