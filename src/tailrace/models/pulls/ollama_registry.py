"""Pulls from Ollama's registry, or another one with its protocol, into a folder with Ollama's layout.

A model is a manifest, which lists blobs with their sizes and digests. A registry that wants a token says where it is
given (WWW-Authenticate), and a pull gets one without a login. Distribution's docs/content/spec, and Ollama's
server/images.go.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlencode, urlsplit

import msgspec

from tailrace.errors import PullFailed
from tailrace.models.foreign_json import MALFORMED
from tailrace.models.pulls.download import RemoteFile
from tailrace.models.pulls.file_set import FileSet
from tailrace.models.pulls.ollama_layout import REMEDY, OllamaLayout
from tailrace.models.pulls.retries import Interrupted
from tailrace.models.pulls.transport import Answer, Opened, Transport, host_of, is_same_server
from tailrace.models.reference import OLLAMA_REGISTRY, OllamaReference

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_LAYER_TYPE = "application/vnd.ollama.image."
#: Bytes of a manifest and of a token's answer.
_MAX_MANIFEST = 4_000_000
#: Layers of one model.
_MAX_LAYERS = 100
_KIND = re.compile(r"[a-z][a-z0-9._-]{0,30}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHALLENGE = re.compile(r'([a-z]+)="([^"]*)"')
#: The first bytes of a GGUF file.
_GGUF = b"GGUF"


class Layer(msgspec.Struct, frozen=True):
    """A blob of a model."""

    mediaType: str = ""  # noqa: N815 - the protocol's name
    digest: str = ""
    size: int = -1

    @property
    def kind(self) -> str:
        """What the blob is, such as ``model``, ``template``, ``params`` or ``projector``. People see it, so it is
        ``layer`` for what can't be a word.
        """
        kind = self.mediaType.removeprefix(_LAYER_TYPE)
        return kind if _KIND.fullmatch(kind) else "layer"


class Manifest(msgspec.Struct, frozen=True):
    """A model's blobs. The configuration is a blob, too."""

    layers: list[Layer] = []
    config: Layer = Layer()


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class OllamaRegistry:
    """The registry of one reference. ``layout``: where its models go."""

    def __init__(self, transport: Transport, reference: OllamaReference, layout: OllamaLayout) -> None:
        self._transport = transport
        self._reference = reference
        self._layout = layout
        self._base = base_url(reference.host)
        self._token: str | None = None

    def find(self, waits: Callable[[str], None]) -> FileSet:
        """The blobs of the model, its weights first. Raises PullFailed, for a model that can't be served here too.

        ``waits`` receives what is waited for, for people.
        """
        reference, layout = self._reference, self._layout
        path = f"/v2/{reference.namespace}/{reference.model}"
        answer = self._ask(f"{self._base}{path}/manifests/{reference.tag}", waits)
        manifest = _decode(answer, self._base)
        weights = self._weights(manifest)
        layers = [weights, *(layer for layer in (*manifest.layers, manifest.config) if layer is not weights)]
        files: dict[str, RemoteFile] = {}
        for layer in layers:
            if layer is manifest.config and not layer.digest:
                continue
            digest = _digest(layer, self._base)
            files[digest] = RemoteFile(
                name=layer.kind if layer is not manifest.config else "config",
                url=f"{self._base}{path}/blobs/{layer.digest}",
                size=layer.size,
                digest=digest,
                final=layout.blob(digest),
                partial=layout.partial(digest),
                lock=layout.lock(digest),
            )
        projected = any(layer.kind == "projector" for layer in layers)
        return FileSet(
            files=tuple(files.values()),
            path=layout.blob(_digest(weights, self._base)),
            folder=layout.folder,
            remedy=REMEDY,
            open=lambda file, headers: self._open(file, headers, waits),
            publish=lambda: layout.publish(reference, answer.body),
            is_published=_has(layout, reference, answer.body),
            check=_check_weights,
            retries=self._transport.retries,
            note="its projector, which reads images, isn't used here: it is served for text" if projected else "",
        )

    def _weights(self, manifest: Manifest) -> Layer:
        """The one layer of weights. Raises PullFailed where the model isn't a GGUF model."""
        kinds = [layer.kind for layer in manifest.layers]
        name = self._reference.name
        if "adapter" in kinds:
            raise PullFailed(
                f"{name} is an adapter (LoRA) on another model, which isn't applied here. Pull a merged model",
                reason="refused",
            )
        if kinds.count("model") != 1:
            formats = ", ".join(sorted(set(kinds))[:10])
            raise PullFailed(
                f"{name} isn't a GGUF model: its layers are {formats or 'none'}. Models that run in Ollama's cloud, "
                "and those in safetensors, can't be served here; look for another tag",
                reason="refused",
            )
        return manifest.layers[kinds.index("model")]

    def _ask(self, url: str, waits: Callable[[str], None]) -> Answer:
        """The manifest's answer, with a token where one is wanted."""
        answer = self._read_manifest(url, waits)
        if answer.status == 401 and self._token is None:
            self._token = self._get_token(answer.headers, waits)
            answer = self._read_manifest(url, waits)
        if answer.status != 200:
            raise self._refusal(answer.status)
        return answer

    def _read_manifest(self, url: str, waits: Callable[[str], None]) -> Answer:
        headers = {"accept": _MANIFEST_TYPE}
        return self._transport.read(url, headers, limit=_MAX_MANIFEST, secret=self._secret(), report=waits)

    def _get_token(self, headers: Mapping[str, str], waits: Callable[[str], None]) -> str:
        """A token for pulling, from where the registry's 401 says (RFC 6750; distribution's spec/auth/token.md)."""
        challenge = headers.get("www-authenticate", "")
        fields = dict(_CHALLENGE.findall(challenge)) if challenge[:7].lower() == "bearer " else {}
        realm = fields.get("realm", "")
        here, there = urlsplit(self._base), urlsplit(realm)
        if not there.hostname or there.scheme not in ("http", "https"):
            raise self._refusal(401)
        if here.scheme == "https" and there.scheme != "https":
            raise PullFailed(f"{here.hostname} has its tokens at an address without https", reason="untrusted")
        query = urlencode([(name, fields[name]) for name in ("service", "scope") if name in fields])
        url = realm + ("&" if there.query else "?") + query
        answer = self._transport.read(url, {}, limit=_MAX_MANIFEST, report=waits, named_by=self._base)
        if answer.status != 200:
            raise self._refusal(401)
        try:
            given = msgspec.json.decode(answer.body, type=_Token)
        except MALFORMED as error:
            raise PullFailed(f"{host_of(realm)} answers with something else than a token", reason="damaged") from error
        token = given.token or given.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise self._refusal(401)
        return token

    @contextlib.contextmanager
    def _open(self, file: RemoteFile, headers: Mapping[str, str], waits: Callable[[str], None]) -> Iterator[Opened]:
        """A blob's bytes, after the registry's redirect to its storage."""
        with self._transport.open(file.url, headers, secret=self._secret()) as opened:
            status = opened.response.status_code
            if status == 401 and not opened.hops:
                # A token lasts for minutes, and a large blob takes longer.
                before, self._token = self._token, self._get_token(opened.response.headers, waits)
                if self._token == before:
                    raise self._refusal(status)
                raise Interrupted(f"{host_of(self._base)} wants a new token", retry_after=0.0)
            if status >= 400 and status != 416 and not is_same_server(opened.response.request.url, self._base):
                # Signed addresses of the storage expire; the registry signs a new one.
                raise Interrupted(f"{opened.response.request.url.host} refuses the {file.name} ({status})")
            if status >= 400 and status != 416:
                raise self._refusal(status)
            yield opened

    def _secret(self) -> dict[str, str]:
        return {} if self._token is None else {"authorization": f"Bearer {self._token}"}

    def _refusal(self, status: int) -> PullFailed:
        name, host = self._reference.name, host_of(self._base)
        if status == 404:
            return PullFailed(
                f"{host} has no model {name}: check its name and its tag (https://ollama.com/search)", reason="missing"
            )
        if status in (401, 403):
            return PullFailed(
                f"{host} wants a login for {name}, which tailrace doesn't do: pull private models with Ollama, and "
                "serve them from its store",
                reason="denied",
            )
        return PullFailed(f"{host} answers with status {status} for {name}", reason="network")


def base_url(host: str) -> str:
    """The address of a registry. ``TAILRACE_OLLAMA_REGISTRY`` is a mirror of Ollama's own."""
    mirror = os.environ.get("TAILRACE_OLLAMA_REGISTRY", "").rstrip("/")
    if host != OLLAMA_REGISTRY or not mirror:
        return f"https://{host}"
    return mirror if "://" in mirror else f"https://{mirror}"


def _decode(answer: Answer, base: str) -> Manifest:
    try:
        manifest = msgspec.json.decode(answer.body, type=Manifest)
    except MALFORMED as error:
        raise PullFailed(
            f"{host_of(base)} answers with something else than a manifest: this network may want a login in a browser",
            reason="damaged",
        ) from error
    if len(manifest.layers) > _MAX_LAYERS:
        raise PullFailed(f"the manifest has {len(manifest.layers)} layers, over {_MAX_LAYERS}", reason="refused")
    return manifest


def _digest(layer: Layer, base: str) -> str:
    found = _DIGEST.fullmatch(layer.digest)
    if found is None or layer.size < 0:
        raise PullFailed(f"{host_of(base)} has a manifest with a layer without digest or size", reason="damaged")
    return found[1]


def _has(layout: OllamaLayout, reference: OllamaReference, manifest: bytes) -> bool:
    try:
        return layout.manifest(reference).read_bytes() == manifest
    except OSError:
        return False


def _check_weights(file: RemoteFile) -> None:
    """Raise PullFailed for weights that aren't GGUF, before the model has its name."""
    if file.name != "model":
        return
    with file.final.open("rb") as data:
        if data.read(len(_GGUF)) != _GGUF:
            raise PullFailed("its weights aren't a GGUF file, so they can't be served here", reason="refused")
