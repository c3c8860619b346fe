"""Ollama's store: a manifest for each model, which names its layers, and blobs, which are called by their checksums.

The model's layer is a GGUF file without that ending. Its system prompt and parameters are honoured. Its template is in
Go's language, so the GGUF file's own is used. Sources: Ollama's manifest/paths.go, docs/import.md and
docs/modelfile.md; the layers' media types in server/images.go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tailrace.errors import ModelError
from tailrace.models.foreign_json import MALFORMED
from tailrace.models.quant_choice import quant_of
from tailrace.models.reference import OllamaReference, parse_reference, served_name
from tailrace.models.stores.found_model import FoundModel, StoreContents, StoreName

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_LAYER = "application/vnd.ollama.image."
_MAX_MANIFESTS = 10_000
_MAX_MANIFEST = 1_000_000
#: Bytes of a layer of text that is read. A licence has up to 60 kB.
_MAX_TEXT = 1_000_000
#: The parameters of a model that are defaults of its requests, with their ranges. The others say how it is loaded, as
#: settings do. One out of its range would fail every request.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_k": (-1, 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "seed": (-(2**63), 2**63 - 1),
    "num_predict": (-2, 2**31 - 1),
    "repeat_last_n": (-1, 2**31 - 1),
    "repeat_penalty": (0.01, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_MAX_STOPS = 16
_MAX_STOP = 1000


class _Layer(msgspec.Struct, rename="camel"):
    media_type: str = ""
    digest: str = ""
    size: int = 0


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []
    config: _Layer | None = None


class _Config(msgspec.Struct):
    file_type: str | None = None  #: the quantisation


_manifest: msgspec.json.Decoder[_Manifest] = msgspec.json.Decoder(_Manifest)
_config: msgspec.json.Decoder[_Config] = msgspec.json.Decoder(_Config)


def ollama_folders() -> list[Path]:
    """Where Ollama keeps models: ``$OLLAMA_MODELS`` alone, or the user's folder and the service's."""
    if named := os.environ.get("OLLAMA_MODELS"):
        return [Path(named).expanduser().absolute()]
    service = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/models", "/var/lib/ollama/.ollama/models")
    return [Path.home() / ".ollama" / "models", *map(Path, service)]


def read_ollama_store(folder: Path, store: StoreName = "ollama") -> StoreContents:
    """The models of one folder, which need not exist."""
    models: list[FoundModel] = []
    problems: list[str] = []
    for path in _manifests(folder / "manifests", problems):
        host, namespace, model, tag = path.relative_to(folder / "manifests").parts
        try:
            reference = parse_reference(f"ollama:{host}/{namespace}/{model}:{tag}")
        except ModelError:
            continue  # Not a name that Ollama makes.
        assert isinstance(reference, OllamaReference)
        models.append(_model(folder, path, reference, store))
    return StoreContents(store=store, folder=folder, models=tuple(models), problems=tuple(problems))


def _manifests(folder: Path, problems: list[str], depth: int = 4) -> Iterator[Path]:
    """The files that are ``depth`` levels below the folder, by name."""
    try:
        names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))[:_MAX_MANIFESTS]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        problems.append(f"{folder} can't be read: {error.strerror}")
        return
    for name in names:
        if depth > 1:
            yield from _manifests(folder / name, problems, depth - 1)
        else:
            yield folder / name


def _model(folder: Path, path: Path, reference: OllamaReference, store: StoreName) -> FoundModel:
    problem: str | None = None
    layers: dict[str, list[_Layer]] = {}
    manifest = _Manifest()
    try:
        manifest = _manifest.decode(_read(path, _MAX_MANIFEST))
    except (OSError, *MALFORMED) as error:
        problem = f"its manifest {path} can't be read: {error}"
    for layer in manifest.layers:
        layers.setdefault(layer.media_type.removeprefix(_LAYER), []).append(layer)
    blob, size, unusable = _weights(folder, layers.get("model", []), reference)
    problem = problem or unusable
    if "adapter" in layers:
        problem = problem or "it has an adapter (LoRA), which isn't applied here: merge it into a GGUF file"
    texts = {kind: _text(folder, layers.get(kind, [])) for kind in ("system", "license")}
    projectors = [found for layer in layers.get("projector", []) if (found := _blob(folder, layer)) is not None]
    return FoundModel(
        store=store,
        reference=str(reference),
        name=served_name(reference),
        path=blob if blob is not None else path,
        bytes=size,
        quant=_quant(folder, manifest.config, reference),
        projector=projectors[0] if projectors else None,
        adapters=tuple(found for layer in layers.get("adapter", []) if (found := _blob(folder, layer)) is not None),
        unused=tuple(kind for kind in ("template", "messages") if kind in layers),
        system=texts["system"],
        parameters=_parameters(folder, layers.get("params", [])),
        licence=texts["license"].partition("\n")[0].strip(),
        problem=problem,
    )


def _weights(folder: Path, layers: list[_Layer], reference: OllamaReference) -> tuple[Path | None, int, str | None]:
    """The model's file, its size, and why it can't be used."""
    blob = _blob(folder, layers[0]) if len(layers) == 1 else None
    if blob is None:
        return None, 0, f"it has {len(layers)} GGUF files in its manifest, and one is needed"
    again = f"fetch it again (tailrace pull {reference})"
    try:
        size = blob.stat().st_size
    except FileNotFoundError:
        return blob, 0, f"its file {blob} isn't there: {again}"
    except OSError as error:
        return blob, 0, f"its file {blob} can't be read: {error.strerror}"
    if size != layers[0].size:
        return blob, size, f"its file {blob} has {size} bytes, not {layers[0].size}: {again}"
    return blob, size, None


def _blob(folder: Path, layer: _Layer) -> Path | None:
    """The layer's file; None for a digest that isn't one."""
    found = _DIGEST.fullmatch(layer.digest)
    return None if found is None else folder / "blobs" / f"sha256-{found[1]}"


def _read(path: Path, limit: int) -> bytes:
    """A small file's content. Raises OSError, also for a larger one."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"it has more than {limit} bytes")
    return data


def _text(folder: Path, layers: list[_Layer]) -> str:
    """The first layer's text; empty where it can't be read: the model can be used without it."""
    blob = _blob(folder, layers[0]) if layers else None
    try:
        return _read(blob, _MAX_TEXT).decode() if blob is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _parameters(folder: Path, layers: list[_Layer]) -> dict[str, Any]:
    text = _text(folder, layers)
    try:
        found = msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except MALFORMED:
        return {}
    kept = {name: value for name, value in found.items() if _is_in_range(name, value)}
    stops = [found["stop"]] if isinstance(found.get("stop"), str) else found.get("stop")
    if isinstance(stops, list):
        texts = [stop for stop in stops if isinstance(stop, str) and 0 < len(stop) <= _MAX_STOP]
        kept |= {"stop": texts[:_MAX_STOPS]} if texts else {}
    return kept


def _is_in_range(name: str, value: Any) -> bool:
    if name not in _RANGES or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = _RANGES[name]
    return low <= value <= high


def _quant(folder: Path, config: _Layer | None, reference: OllamaReference) -> str | None:
    """The quantisation by the model's configuration, or else by its tag."""
    try:
        said = _config.decode(_text(folder, [config])).file_type if config is not None else None
    except MALFORMED:
        said = None
    return quant_of(said or "") or quant_of(reference.tag)
