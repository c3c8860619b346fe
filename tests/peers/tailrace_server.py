"""Starts tailrace where llama.cpp's server tests start llama-server.

The tests make a ``ServerProcess``, set its attributes and call ``start``. ``patch`` replaces how that starts and stops
a server. What llama-server takes as options and this server has as well is passed on. A server that has been started
with the same options is used again, because starting one takes longer than most of these tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gguf
from requests.structures import CaseInsensitiveDict

from tailrace.models.store import Store
from tailrace.settings import STARTER_MODEL

PATIENCE = 60.0
#: Routes whose requests have sampling parameters of llama-server's.
_GENERATING = ("/completion", "/infill", "/completions")
#: At most so many servers are kept for tests to come.
_KEPT = 2
#: Special tokens of the starter model that no text has, as the tokens around a gap.
_GAP = {"fim_pre": 7, "fim_suf": 8, "fim_mid": 9, "fim_rep": 3, "fim_sep": 5}


class Server:
    """A running ``tailrace serve``."""

    def __init__(self, arguments: tuple[str, ...], port: int) -> None:
        self.port = port
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-peers-")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        kept |= {"XDG_STATE_HOME": self._folder.name, "XDG_CONFIG_HOME": self._folder.name}
        self._log = Path(self._folder.name) / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("tailrace")), "serve", "--port", str(port), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=kept,
            )

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._folder.cleanup()


class Servers:
    """Those that run, the one used last at the end."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, ...], Server] = {}
        self._next_port = 18_080
        self.fresh = False  #: whether the next test wants a server that nobody has used

    def get(self, arguments: tuple[str, ...]) -> tuple[Server, bool]:
        """A server with these arguments, and whether it is a new one."""
        found = self._running.pop(arguments, None)
        if found is not None and (self.fresh or found.process.poll() is not None):
            found.stop()
            found = None
        new = found is None
        if found is None:
            while len(self._running) >= _KEPT:
                self._running.pop(next(iter(self._running))).stop()
            self._next_port += 1
            found = Server(arguments, self._next_port)
        self._running[arguments] = found
        return found, new

    def stop(self) -> None:
        """End all."""
        for server in self._running.values():
            server.stop()
        self._running.clear()


SERVERS = Servers()


def arguments_of(wanted: Any, folder: Path) -> tuple[str, ...]:
    """The command line for what a test has set. ``folder``: where made files are kept."""
    slots = wanted.n_slots or 4
    total = wanted.n_ctx or 4096
    context = total if wanted.kv_unified else total // slots
    # llama-server takes any name of a model.
    arguments = ["--ctx", str(context), "--parallel", str(slots), "--kv-tokens", str(total), "--aliases", "*"]
    arguments += ["--threads", "1", str(model_of(wanted, folder))]
    arguments += ["--alias", (wanted.model_alias or "tailrace").partition(",")[0]]
    if wanted.n_batch:
        arguments += ["--prefill-chunk", str(wanted.n_batch)]
    if wanted.api_key:
        arguments += ["--api-key", wanted.api_key]
    if wanted.cors_origins and wanted.cors_origins != "localhost":
        arguments += ["--cors-origins", wanted.cors_origins]
    if wanted.chat_template:
        arguments += ["--chat-template", wanted.chat_template]
    if wanted.chat_template_file:
        arguments += ["--chat-template", str(Path(wanted.chat_template_file).resolve())]
    return tuple(arguments)


def with_defaults(wanted: Any, path: str, data: Any) -> Any:
    """A request with what llama-server has been started with and tailrace has no setting for."""
    if not isinstance(data, dict):
        return data
    defaults: dict[str, Any] = {}
    if path.endswith(_GENERATING):
        defaults = {"temperature": wanted.temperature, "seed": wanted.seed}
    if path.endswith(("/completion", "/infill")) and wanted.n_predict:
        defaults["n_predict"] = wanted.n_predict
    if path.endswith(("/chat/completions", "/apply-template")):
        # llama-server says it to every template.
        defaults["chat_template_kwargs"] = {"enable_thinking": wanted.reasoning != "off"}
    return {**defaults, **data}


def model_of(wanted: Any, folder: Path) -> Path:
    """The starter model's file, or a copy with tokens around gaps where a test fills one."""
    found = Store().find(STARTER_MODEL)
    assert found is not None, "the starter model is fetched before"
    if "infill" not in (wanted.model_alias or ""):
        return found.path
    altered = folder / "infill.gguf"
    if not altered.exists():
        _with_gap_tokens(found.path, altered)
    return altered


def _with_gap_tokens(model: Path, target: Path) -> None:
    reader = gguf.GGUFReader(model)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            array = len(field.types) > 1
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if array else None)
    for name, token in _GAP.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def patch(utils: Any, folder: Path) -> None:
    """Have the tests' module ``utils`` start tailrace, and judge no words: those are of models that aren't here."""

    def start(self: Any, timeout_seconds: float = PATIENCE) -> None:
        server, new = SERVERS.get(arguments_of(self, folder))
        self.server_port = server.port
        deadline = time.monotonic() + PATIENCE
        while new:
            assert server.process.poll() is None, f"the server has ended:\n{server.log}"
            assert time.monotonic() < deadline, f"the server isn't ready:\n{server.log}"
            try:
                if self.make_request("GET", "/health").status_code == 200:
                    return
            except OSError:
                pass  # It doesn't listen yet.
            time.sleep(0.05)

    make_request, make_stream_request = utils.ServerProcess.make_request, utils.ServerProcess.make_stream_request

    def request(self: Any, method: str, path: str, data: Any = None, *rest: Any, **named: Any) -> Any:
        result = make_request(self, method, path, with_defaults(self, path, data), *rest, **named)
        result.headers = CaseInsensitiveDict(result.headers)
        return result

    def stream(self: Any, method: str, path: str, data: Any = None, *rest: Any, **named: Any) -> Any:
        return make_stream_request(self, method, path, with_defaults(self, path, data), *rest, **named)

    utils.ServerProcess.make_request = request
    utils.ServerProcess.make_stream_request = stream
    utils.ServerProcess.start = start
    utils.ServerProcess.stop = lambda self: None
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    utils.match_regex = lambda regex, text: isinstance(text, str)
