"""The grammar of references to models: what a user types behind a verb, and what a client sends as ``model``.

Parsing is pure: it reads no file, no network and no environment. What a reference leads to is found by
``model_reference`` on this machine, and by ``pulls`` elsewhere. No part of a parsed reference can lead out of a folder:
each is checked to be a plain name, or a path of plain names.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from tailrace.errors import ModelError

#: Characters of the longest reference.
MAX_LENGTH = 4096
#: Characters of a wrong reference that an error message shows.
_SHOWN = 120
#: Bytes of a file's name, and of a path in a repository.
_MAX_FILE_NAME = 255
_MAX_FILE_PATH = 1024

HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"})
OLLAMA_REGISTRY = "registry.ollama.ai"
#: Hosts whose pages and paths name models of Ollama's registry.
_OLLAMA_HOSTS = frozenset({OLLAMA_REGISTRY, "ollama.com", "www.ollama.com", "ollama.ai"})
_OLLAMA_LIBRARY = "library"

#: huggingface_hub's rule for the name of an organisation or a repository; ``--`` and ``..`` are refused too.
_HUB_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
#: Ollama's rules (types/model/name.go). Its namespaces have no dots, but those of another registry may.
_OLLAMA_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_OLLAMA_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}(?::[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_REVISION_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
#: Parts of a hub's URL that come before a revision.
_HUB_VIEWS = frozenset({"tree", "blob", "resolve", "raw", "commit"})
#: First parts of a hub's URL that aren't organisations.
_HUB_OTHERS = frozenset({"datasets", "spaces", "api", "docs", "collections", "papers", "blog"})

FORMS = (
    "a path to a .gguf file, a name that tailrace list shows, hf:ORG/REPO, hf:ORG/REPO:QUANT (such as Q4_K_M), "
    "a URL of huggingface.co, or ollama:MODEL:TAG"
)


class PathReference(msgspec.Struct, frozen=True):
    """A file or a folder on this machine, as the user typed it."""

    path: str

    def __str__(self) -> str:
        return self.path


class NameReference(msgspec.Struct, frozen=True):
    """A name in a store of this machine, such as ``smollm2-135m``, or Ollama's ``llama3.2:3b``."""

    name: str
    tag: str | None = None

    def __str__(self) -> str:
        return self.name if self.tag is None else f"{self.name}:{self.tag}"


class HubReference(msgspec.Struct, frozen=True, kw_only=True):
    """A repository of the Hugging Face hub. ``quant`` and ``file`` are never set together."""

    organisation: str
    repository: str
    quant: str | None = None  #: a quantisation such as ``Q4_K_M``, in the user's case; None: chosen (``quant_choice``)
    file: str | None = None  #: a .gguf file's path in the repository
    revision: str | None = None  #: a branch, tag or commit; None: main

    @property
    def repo_id(self) -> str:
        """``ORG/REPO``."""
        return f"{self.organisation}/{self.repository}"

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        behind = f":{self.quant}" if self.quant is not None else f":{self.file}" if self.file is not None else ""
        return f"hf:{self.repo_id}{at}{behind}"


class OllamaReference(msgspec.Struct, frozen=True, kw_only=True):
    """A model of Ollama's registry, or of another registry with its protocol."""

    model: str
    namespace: str = _OLLAMA_LIBRARY
    tag: str = "latest"
    host: str = OLLAMA_REGISTRY  #: with a port where one was named

    @property
    def name(self) -> str:
        """The name as Ollama's commands show it: without the parts that are the default, but with the tag."""
        front = "" if self.host == OLLAMA_REGISTRY else f"{self.host}/"
        space = "" if not front and self.namespace == _OLLAMA_LIBRARY else f"{self.namespace}/"
        return f"{front}{space}{self.model}:{self.tag}"

    def __str__(self) -> str:
        return f"ollama:{self.name}"


Reference = PathReference | NameReference | HubReference | OllamaReference


def parse_reference(text: str, endpoint: str | None = None) -> Reference:
    """What ``text`` refers to. ``endpoint``: the hub's URL where it isn't huggingface.co (``HF_ENDPOINT``).

    Raises ModelError, which says what is wrong and shows the forms. docs/models.md has the grammar.
    """
    if not text.strip():
        raise ModelError(f"no model is named: name {FORMS}")
    if len(text) > MAX_LENGTH:
        raise _wrong(text, f"it has {len(text):,} characters, and a reference has {MAX_LENGTH:,} at most")
    if "\0" in text or not text.isprintable():
        raise _wrong(text, "it has a character that can't be printed")
    prefix, colon, rest = text.partition(":")
    scheme = prefix.lower() if colon else ""
    if scheme in ("http", "https"):
        return _url(text, endpoint)
    if scheme == "hf":
        return _hub(text, _without_host(rest.removeprefix("//"), HUB_HOSTS))
    if scheme == "ollama":
        named = rest.removeprefix("//")
        behind = _without_host(named, _OLLAMA_HOSTS)
        return _ollama(text, behind, hosted=behind == named)
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return PathReference(text)
    host, _, behind = text.partition("/")
    if host.lower() in HUB_HOSTS:
        return _hub(text, behind)
    if host.lower() in _OLLAMA_HOSTS:
        return _ollama(text, behind)
    # A hub's file has a colon before its path, so that ``org/repo/file.gguf`` stays a path.
    if text.lower().endswith(".gguf") and not _names_hub_file(text):
        return PathReference(text)
    if "/" in text:
        return _hub(text, text)
    name, colon, tag = text.partition(":")
    if _NAME.fullmatch(name) is None or (colon and _OLLAMA_PART.fullmatch(tag) is None):
        raise _wrong(text, "a name has letters, digits, dots, dashes and underscores, and one tag behind a colon")
    return NameReference(name, tag if colon else None)


def served_name(reference: Reference) -> str:
    """The name for clients of a model that was named by ``reference``; for a path, the path itself."""
    match reference:
        case HubReference(quant=quant, file=file):
            behind = quant if quant is not None else file
            return reference.repo_id if behind is None else f"{reference.repo_id}:{behind}"
        case OllamaReference():
            # Ollama pulls from the hub by this host; clients name such a model as any other of the hub.
            own = reference.name if reference.host not in HUB_HOSTS else reference.name.partition("/")[2]
            return own.removesuffix(":latest")
        case NameReference():
            return str(reference).removesuffix(":latest")
        case PathReference():
            return reference.path


def name_key(text: str, endpoint: str | None = None) -> str:
    """What is the same for all texts that name the same model, for example for ``hf:org/repo:Q4_K_M`` and
    ``org/repo:q4_k_m``. Text that is no reference is only folded to lower case. It never raises.
    """
    if len(text) > MAX_LENGTH:
        return text[:MAX_LENGTH]  # No model has such a name; folding a long text would cost more than the request.
    try:
        name = served_name(parse_reference(text, endpoint))
    except ModelError:
        name = text
    return name.casefold().removesuffix(":latest")


def name_keys(name: str, reference: str | None = None) -> tuple[str, ...]:
    """The ``name_key`` of everything that means a model, the most exact first. ``name``: what clients call it;
    ``reference``: what it was served by. A repository without a quantisation means its model, too; a path doesn't.
    """
    keys = [name.casefold(), name_key(name)]
    for text in (reference, name):
        try:
            parsed = parse_reference(text) if text is not None else None
        except ModelError:
            continue
        if parsed is not None and not isinstance(parsed, PathReference):
            keys.append(name_key(str(parsed)))
        if isinstance(parsed, HubReference):
            keys.append(parsed.repo_id.casefold())
    return tuple(dict.fromkeys(keys))


def _names_hub_file(text: str) -> bool:
    """Whether text that ends in .gguf is ``org/repo:file.gguf``."""
    repository, colon, _ = text.partition(":")
    return bool(colon) and repository.count("/") == 1


def _without_host(text: str, hosts: frozenset[str]) -> str:
    host, slash, behind = text.partition("/")
    return behind if slash and host.lower() in hosts else text


def _hub(whole: str, text: str) -> HubReference:
    """``ORG/REPO``, with ``@REVISION``, and with ``:QUANT``, ``:FILE`` or ``/FILE``."""
    repository, colon, behind = text.partition(":")
    repository, at, revision = repository.partition("@")
    organisation, _, name = repository.partition("/")
    name, slash, file = name.partition("/")
    if colon and slash:
        raise _wrong(whole, "a repository is ORG/REPO; a file in it or a quantisation comes behind it, not both")
    if slash and not file.lower().endswith(".gguf"):
        raise _wrong(whole, "a repository is ORG/REPO, and only a .gguf file's path may follow it")
    quant = behind if colon else None
    if behind.lower().endswith(".gguf"):
        quant, file = None, behind
    return _hub_reference(whole, organisation, name, quant, file or None, revision if at else None)


def _hub_reference(
    whole: str, organisation: str, name: str, quant: str | None, file: str | None, revision: str | None
) -> HubReference:
    """Raises ModelError for a part that isn't a plain name."""
    if not is_repository(f"{organisation}/{name}"):
        raise _wrong(whole, "a repository of the hub is ORG/REPO, two names of letters, digits, '.', '-' and '_'")
    if quant is not None and (_QUANT.fullmatch(quant) is None or ".." in quant):
        raise _wrong(whole, "behind the colon comes a quantisation such as Q4_K_M, or a .gguf file's path")
    if file is not None and not is_plain_path(file):
        raise _wrong(whole, "the file isn't a plain path in the repository")
    if revision is not None and (
        len(revision) > _MAX_FILE_PATH
        or ".." in revision
        or not all(_REVISION_PART.fullmatch(part) for part in revision.split("/"))
    ):
        raise _wrong(whole, "the revision isn't a branch, a tag or a commit")
    # Clients and pages name the default branch, which is no other model.
    revision = None if revision == "main" else revision
    return HubReference(organisation=organisation, repository=name, quant=quant, file=file, revision=revision)


def _ollama(whole: str, text: str, *, hosted: bool = False) -> OllamaReference:
    """``[[HOST/]NAMESPACE/]MODEL[:TAG]``, with a host only if ``hosted``. A host may have a colon before its port."""
    *front, last = text.split("/")
    model, colon, tag = last.partition(":")
    host, namespace = ([OLLAMA_REGISTRY, _OLLAMA_LIBRARY, *front])[-2:]
    if len(front) == 1:
        host = OLLAMA_REGISTRY
    parts = [namespace, model, *([tag] if colon else [])]
    good = (
        len(front) <= (2 if hosted else 1)
        and _OLLAMA_HOST.fullmatch(host) is not None
        and all(_OLLAMA_PART.fullmatch(part) is not None and ".." not in part for part in (*parts, host.split(":")[0]))
    )
    if not good:
        raise _wrong(whole, "a model of Ollama's registry is ollama:MODEL:TAG or ollama:USER/MODEL:TAG")
    if host.lower() in _OLLAMA_HOSTS:
        host = OLLAMA_REGISTRY
    return OllamaReference(host=host, namespace=namespace, model=model, tag=tag if colon else "latest")


def _url(text: str, endpoint: str | None) -> HubReference | OllamaReference:
    """A page or a file of the hub, or a page of Ollama's library."""
    try:
        url = urlsplit(text)
        host, port = (url.hostname or "").lower(), url.port
    except ValueError as error:
        raise _wrong(text, f"it isn't a URL ({error})") from error
    if url.username is not None or url.password is not None:
        raise ModelError("a URL of a model has no user or password in it; the hub's token belongs into HF_TOKEN")
    path = url.path
    try:
        own = urlsplit(endpoint or "")
        is_own = bool(endpoint) and ((own.hostname or "").lower(), own.port) == (host, port)
    except ValueError as error:
        raise ModelError(f"HF_ENDPOINT isn't a URL ({error}): it is one such as https://huggingface.co") from error
    if is_own:
        prefix = own.path.rstrip("/")
        if not f"{path}/".startswith(f"{prefix}/"):
            raise _wrong(text, f"HF_ENDPOINT's pages are below {prefix}/")
        path = path.removeprefix(prefix)
    elif host in _OLLAMA_HOSTS:
        return _ollama(text, path.strip("/"))
    elif host not in HUB_HOSTS or port is not None:
        raise _wrong(text, f"{host[:_SHOWN]!r} is neither huggingface.co nor HF_ENDPOINT's host")
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] in _HUB_OTHERS:
        raise _wrong(text, "it is a URL of the hub, but not of a model's repository")
    organisation, name, view, revision, *file = (*parts, "", "", "", "")[: max(4, len(parts))]
    if not view:
        shown = parse_qs(url.query).get("show_file_info", [""])[0]  # The hub's pages show a file by this field.
        return _hub_reference(text, organisation, name, None, shown or None, None)
    if view not in _HUB_VIEWS or not revision:
        raise _wrong(text, "a URL of a repository ends in /tree/REVISION or /blob/REVISION/FILE, or behind the name")
    if view == "tree" or not file:
        return _hub_reference(text, organisation, name, None, None, revision)
    path = "/".join(file)
    if not path.lower().endswith(".gguf"):
        raise _wrong(text, "the file that it names isn't a .gguf file")
    return _hub_reference(text, organisation, name, None, path, revision)


def is_repository(text: str) -> bool:
    """Whether text is ``ORG/REPO``, two names that the hub allows."""
    organisation, _, name = text.partition("/")
    return all(_HUB_NAME.fullmatch(part) and "--" not in part and ".." not in part for part in (organisation, name))


def is_plain_path(path: str) -> bool:
    """Whether a relative path has only plain names in it: none is hidden, leads up or has control characters."""
    names = path.split("/")
    try:
        sizes = [len(name.encode()) for name in names]
    except UnicodeEncodeError:  # Half a surrogate pair.
        return False
    return (
        path.isprintable()
        and "\\" not in path
        and all(0 < size <= _MAX_FILE_NAME for size in sizes)
        and sum(sizes) + len(names) <= _MAX_FILE_PATH
        and not any(name.startswith(".") for name in names)
    )


def _wrong(text: str, reason: str) -> ModelError:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return ModelError(f"{shown!r} is no reference to a model: {reason}. Name {FORMS}")
