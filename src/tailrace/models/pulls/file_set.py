"""Gets all files of a model, with one account of their bytes, and publishes the model when all are there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tailrace.errors import PullFailed
from tailrace.models.pulls.disk_space import check_space, disk_failure
from tailrace.models.pulls.download import Download, Open, RemoteFile
from tailrace.models.pulls.progress import OnProgress, Progress, Pulled, Stage
from tailrace.models.pulls.retries import Retries

#: Seconds between reports of one stage.
_REPORT_SECONDS = 0.1


class FileSet(msgspec.Struct, frozen=True, kw_only=True):
    """A model's files, and what the two protocols know of them."""

    files: tuple[RemoteFile, ...]
    path: Path  #: the file by which the model is loaded, once it is published
    folder: Path  #: below which all are written
    remedy: str  #: which variable moves the folder, for messages
    open: Open
    retries: Callable[[Callable[[str], None]], Retries]  #: an account of one file's failures
    publish: Callable[[], None]  #: gives the model its name; raises OSError
    is_published: bool
    check: Callable[[RemoteFile], None] | None = None  #: looks at a whole file; raises PullFailed
    note: str = ""  #: for people: a part of the model that isn't used here


class _Account:
    """The bytes of all files, and the reports of them, which aren't more often than a person can read."""

    def __init__(self, files: tuple[RemoteFile, ...], on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._total = sum(file.size for file in files)
        self._before = 0  #: bytes of the files that are whole
        self._last: tuple[str, Stage, str] | None = None
        self._at = 0.0

    def report(self, file: RemoteFile, stage: Stage, done: int, note: str = "") -> None:
        now, what = time.monotonic(), (file.name, stage, note)
        if what == self._last and now - self._at < _REPORT_SECONDS and done < file.size:
            return
        self._last, self._at = what, now
        self._on_progress(
            Progress(
                stage=stage,
                file=file.name,
                digest=file.shown_digest,
                done=done,
                total=file.size,
                all_done=self._before + done,
                all_total=self._total,
                note=note,
            )
        )

    def whole(self, file: RemoteFile) -> None:
        self._before += file.size


def get(wanted: FileSet, on_progress: OnProgress) -> Pulled:
    """Get what is missing of a model, and publish it. Raises PullFailed."""
    present = wanted.is_published and all(file.is_here() for file in wanted.files)
    result = Pulled(path=str(wanted.path), bytes=sum(file.size for file in wanted.files), present=present)
    if wanted.note:
        on_progress(Progress(stage="manifest", note=wanted.note))
    if present:
        return result
    missing = [file for file in wanted.files if not file.is_here()]
    # One digest may stand for several files of a set.
    needed = {file.partial: file.size - file.partial_bytes() for file in missing}
    check_space(wanted.folder, sum(needed.values()), wanted.remedy)
    account = _Account(wanted.files, on_progress)
    for file in wanted.files:
        if file in missing:
            _get_one(wanted, file, account)
        account.whole(file)
    if any(not file.is_here() for file in wanted.files):
        raise PullFailed("a file of the model has been deleted meanwhile. Pull again", reason="damaged")
    on_progress(Progress(stage="write", all_done=result.bytes, all_total=result.bytes))
    try:
        wanted.publish()
    except OSError as error:
        raise disk_failure(wanted.folder, error, wanted.remedy) from error
    return result


def _get_one(wanted: FileSet, file: RemoteFile, account: _Account) -> None:
    def report(stage: Stage, done: int, note: str = "") -> None:
        account.report(file, stage, done, note)

    Download(file, wanted.open, report, wanted.remedy, wanted.retries).run()
    if wanted.check is not None:
        try:
            wanted.check(file)
        except PullFailed:
            file.final.unlink(missing_ok=True)
            raise
