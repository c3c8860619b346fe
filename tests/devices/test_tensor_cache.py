"""A model's large tensors are sent to a worker once."""

from __future__ import annotations

from pathlib import Path

from placed_backend import load_placed
from servers import wait_for
from tailrace.folders import cache_folder
from worker_process import WorkerProcess

#: The embedding in Q8_0, which is also the output: the only tensor of over 10 MiB.
_LARGEST = 49_152 * 576 // 32 * 34


def tensors(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the last write of each kept tensor."""
    found = {path.name: path.stat() for path in folder.iterdir() if path.suffix != ".json"}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def test_a_tensor_is_sent_once(tmp_path: Path) -> None:
    own = tmp_path / "tailrace"
    own.mkdir()
    (own / "kernels").symlink_to(cache_folder() / "kernels")
    folder = own / "worker"
    first: dict[str, tuple[int, int]] = {}
    for _ in range(2):
        worker = WorkerProcess("--cache-mb", "100", environment={"XDG_CACHE_HOME": str(tmp_path)})
        try:
            placement = {"layers": {"0-29": worker.endpoint}, "output": worker.endpoint}
            backend = load_placed([worker.endpoint], placement=placement)
            logits = backend.decode([40, 41], [0, 1], [0, 0], [1])
            assert int(logits[0].argmax()) >= 0
            backend.close()
            first = first or tensors(folder)
            assert [size for size, _ in first.values()] == [_LARGEST]
            assert tensors(folder) == first, "the second worker was sent it again"
            wait_for("the tensor to be listed", (folder / "whole-files.json").exists)
        finally:
            worker.close()
