"""Pulls from the Hugging Face hub, into its own cache.

huggingface_hub knows the configuration: endpoint, token, cache folder and offline mode. It isn't used for the downloads
themselves: version 2 begins each one anew, and doesn't verify what arrives over plain HTTP. Files of Xet storage come
over HTTP, too, from the same addresses.
https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote

import msgspec
from huggingface_hub import constants, get_token, hf_hub_url

from tailrace.errors import ModelError, PullFailed
from tailrace.models.foreign_json import MALFORMED
from tailrace.models.pulls.download import RemoteFile
from tailrace.models.pulls.file_set import FileSet
from tailrace.models.pulls.hub_cache import REMEDY, HubCache
from tailrace.models.pulls.retries import Interrupted
from tailrace.models.pulls.transport import Answer, Opened, Transport, host_of, is_same_server, shown_url
from tailrace.models.quant_choice import FileSize, choose_quant, is_model_name, listed_quants, quant_sets
from tailrace.models.reference import HubReference, is_plain_path

#: Bytes of a repository's listing; one with ten thousand files has about 3 MB.
_MAX_LISTING = 16_000_000
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: A git blob's SHA-1, or its SHA-256 in a repository of git's newer format, which hubs don't have.
_GIT = re.compile(r"[0-9a-f]{40}")
_DEFAULT_BRANCH = "main"


class _Lfs(msgspec.Struct):
    sha256: str = ""
    size: int = -1


class _Sibling(msgspec.Struct):
    rfilename: str = ""
    size: int | None = None
    blobId: str | None = None  # noqa: N815 - the hub's name
    lfs: _Lfs | None = None


class _Listing(msgspec.Struct):
    sha: str = ""
    siblings: list[_Sibling] = []


class Hub:
    """The hub that the environment names."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._endpoint = constants.ENDPOINT
        if constants.is_offline_mode():
            raise PullFailed(
                "HF_HUB_OFFLINE is set, so nothing is pulled from the hub. Unset it, or serve a model that is here "
                "(tailrace list)",
                reason="network",
            )
        self._token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        if self._token is not None and not (self._token.isascii() and self._token.isprintable()):
            raise PullFailed("HF_TOKEN has characters that no token has: copy it again", reason="denied")

    def find(self, reference: HubReference, memory: int | None, waits: Callable[[str], None]) -> FileSet:
        """The files that a reference means, the model's first one first. Raises PullFailed.

        ``memory``: bytes for the model, by which a quantisation is chosen where none is named. ``waits`` receives what
        is waited for, for people.
        """
        repo_id, revision = reference.repo_id, reference.revision or _DEFAULT_BRANCH
        url = f"{self._endpoint}/api/models/{repo_id}/revision/{quote(revision, safe='')}?blobs=true"
        answer = self._transport.read(url, {}, limit=_MAX_LISTING, secret=self._secret(), report=waits)
        if answer.status != 200:
            raise self._refusal(reference, answer.status, answer.headers)
        listing = _decode(answer, url)
        cache = HubCache(repo_id)
        sizes, siblings = [], {}
        for sibling in listing.siblings:
            name, size = sibling.rfilename, sibling.lfs.size if sibling.lfs is not None else sibling.size
            # A name that leads out of the folder isn't taken, even if the hub lists it.
            if is_plain_path(name) and is_model_name(name) and size is not None and size >= 0:
                sizes.append(FileSize(name, size))
                siblings[name] = sibling
        try:
            chosen = choose_quant(sizes, quant=reference.quant, file=reference.file, memory=memory)
        except ModelError as error:
            raise PullFailed(f"{repo_id} on {host_of(url)}: {error}", reason="missing") from error
        if reference.quant is None and reference.file is None and not chosen.fits(memory):
            raise PullFailed(
                f"{repo_id} has no quantisation that fits into {(memory or 0) / 1e9:.1f} GB of memory; it has "
                f"{listed_quants(quant_sets(sizes))}. Name one to fetch it all the same, as in "
                f"hf:{repo_id}:{chosen.quant or chosen.files[0].path}",
                reason="missing",
            )
        found = [self._file(cache, listing.sha, repo_id, entry, siblings[entry.path]) for entry in chosen.files]
        names = [(file.name, file.digest) for file in found]
        return FileSet(
            files=tuple(found),
            path=cache.pointer(listing.sha, found[0].name),
            folder=cache.folder,
            remedy=REMEDY,
            open=lambda file, headers: self._open(reference, file, headers),
            publish=lambda: cache.publish(listing.sha, revision, names),
            retries=self._transport.retries,
            is_published=all(cache.pointer(listing.sha, name).exists() for name, _ in names),
        )

    def _file(self, cache: HubCache, commit: str, repo_id: str, entry: FileSize, sibling: _Sibling) -> RemoteFile:
        digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blobId or ""
        if (_SHA256 if sibling.lfs is not None else _GIT).fullmatch(digest) is None:
            raise PullFailed(
                f"{host_of(self._endpoint)} has no checksum of {entry.path}, so it can't be verified",
                reason="damaged",
            )
        pointer = cache.pointer(commit, entry.path)
        # Without links, the file itself lies where the link would be.
        final = pointer if pointer.is_file() and not pointer.is_symlink() else cache.blob(digest)
        return RemoteFile(
            name=entry.path,
            url=hf_hub_url(repo_id, entry.path, revision=commit),
            size=entry.bytes,
            algorithm="sha256" if sibling.lfs is not None else "git",
            digest=digest,
            final=final,
            partial=cache.partial(digest),
            lock=cache.lock(digest),
        )

    @contextlib.contextmanager
    def _open(self, reference: HubReference, file: RemoteFile, headers: Mapping[str, str]) -> Iterator[Opened]:
        """The file's bytes, after the hub's redirect to its storage."""
        with self._transport.open(file.url, headers, secret=self._secret()) as opened:
            response = opened.response
            if response.status_code >= 400 and response.status_code != 416:
                if not is_same_server(response.request.url, self._endpoint):
                    # Signed addresses of the storage expire; the hub signs a new one.
                    raise Interrupted(f"{response.request.url.host} refuses {file.name} ({response.status_code})")
                raise self._refusal(reference, response.status_code, response.headers)
            linked = (opened.header("x-linked-etag") or "").removeprefix("W/").strip('"')
            if _SHA256.fullmatch(linked) is not None and linked != file.digest:
                raise PullFailed(f"{file.name} has changed on the hub meanwhile. Pull again", reason="damaged")
            yield opened

    def _secret(self) -> dict[str, str]:
        return {} if self._token is None else {"authorization": f"Bearer {self._token}"}

    def _refusal(self, reference: HubReference, status: int, headers: Mapping[str, str]) -> PullFailed:
        """The failure for a status of the hub. Its codes are those of huggingface_hub's ``hf_raise_for_status``."""
        repo_id, page = reference.repo_id, f"{shown_url(self._endpoint)}/{reference.repo_id}"
        code = headers.get("x-error-code", "")
        login = "set HF_TOKEN to a token of that account (or run: hf auth login)"
        if code == "GatedRepo":
            if self._token is None or status == 401:
                return PullFailed(f"{repo_id} is gated: accept its licence at {page}, then {login}", reason="denied")
            return PullFailed(
                f"{repo_id} is gated, and the account of HF_TOKEN has no access yet: accept its licence at {page}, and "
                "wait until it is granted. A fine-grained token needs the right to read gated repositories",
                reason="denied",
            )
        if code == "RevisionNotFound":
            return PullFailed(
                f"{repo_id} has no branch, tag or commit {reference.revision!r}: see {page}", reason="missing"
            )
        if code == "EntryNotFound":
            return PullFailed(f"{repo_id} has no such file: see {page}", reason="missing")
        if code == "RepoNotFound" or status == 404:
            private = f"if it is private, {login}" if self._token is None else "or HF_TOKEN's account may not see it"
            return PullFailed(
                f"there is no repository {repo_id} on {host_of(page)}: check its name; {private}", reason="missing"
            )
        if status == 401 and self._token is not None:
            return PullFailed(f"the hub doesn't accept the token: {login}, or unset it", reason="denied")
        if status in (401, 403):
            return PullFailed(f"the hub refuses {repo_id} ({status}): see {page}; {login}", reason="denied")
        return PullFailed(f"{host_of(page)} answers with status {status} for {repo_id}", reason="network")


def _decode(answer: Answer, url: str) -> _Listing:
    try:
        listing = msgspec.json.decode(answer.body, type=_Listing)
    except MALFORMED as error:
        raise PullFailed(
            f"{host_of(url)} answers with something else than the hub's listing: this network may want a login in a "
            "browser, or HF_ENDPOINT names no hub",
            reason="damaged",
        ) from error
    if _COMMIT.fullmatch(listing.sha) is None:
        raise PullFailed(f"{host_of(url)} names no commit of the repository", reason="damaged")
    return listing
