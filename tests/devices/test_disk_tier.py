"""Prefix states on disk have a worker's cells: a conversation goes on after the server has ended."""

from __future__ import annotations

from pathlib import Path

from openai_wire import ask
from servers import serving
from tailrace.folders import cache_folder
from worker_process import WorkerProcess

_PROMPT = [1, *range(300, 420)]


def test_a_conversation_goes_on_in_the_next_server(tmp_path: Path) -> None:
    own = tmp_path / "tailrace"
    own.mkdir()
    for each in cache_folder().iterdir():
        if each.name != "kv":
            (own / each.name).symlink_to(each)
    worker = WorkerProcess()
    arguments = (
        "--ctx",
        "1024",
        "--keep-disk-mb",
        "500",
        "--gpu-layers",
        "15",
        "--devices",
        f"local,{worker.endpoint}",
    )
    replies = []
    try:
        for _ in range(2):
            with serving(*arguments, environment={"XDG_CACHE_HOME": str(tmp_path)}) as server:
                body = {"prompt": _PROMPT, "n_predict": 8, "return_tokens": True, "temperature": 0, "ignore_eos": True}
                reply = ask(server.port, "POST", "/completion", body)
                assert reply.status == 200, reply.body
                replies.append(reply.json())
                assert server.stop() == 0
    finally:
        worker.close()
    first, second = replies
    assert first["timings"]["cache_n"] == 0
    assert second["timings"]["cache_n"] >= len(_PROMPT) - 1
    assert len(second["tokens"]) == 8
