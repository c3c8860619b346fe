"""Pulls from a hub: the cache afterwards, what is chosen, and each refusal."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, try_to_load_from_cache

from local_pulls import LocalPulls, files_below
from model_files import tiny_gguf
from pull_servers import COMMIT, OTHER_COMMIT, ProxyServer, git_digest
from servers import wait_for
from tailrace.errors import PullFailed

MODEL = tiny_gguf(weights=bytes(range(256)) * 2000)
REPO = "models--org--repo"


def failure(pulls: LocalPulls, text: str = "hf:org/repo") -> PullFailed:
    with pytest.raises(PullFailed) as caught:
        pulls.pull(text)
    return caught.value


def test_a_pulled_file_is_where_huggingface_hub_looks_for_it(pulls: LocalPulls) -> None:
    content = pulls.hub.add("model-Q4_K_M.gguf", MODEL)
    pulled = pulls.pull("hf:org/repo")
    assert try_to_load_from_cache("org/repo", "model-Q4_K_M.gguf", cache_dir=pulls.cache) == pulled.path
    assert Path(pulled.path).read_bytes() == MODEL
    assert (pulled.bytes, pulled.present) == (len(MODEL), False)
    assert files_below(pulls.cache) == [
        f"{REPO}/blobs/{content.sha256}",
        f"{REPO}/refs/main",
        f"{REPO}/snapshots/{COMMIT}/model-Q4_K_M.gguf",
    ]
    assert not Path(pulled.path).readlink().is_absolute(), "a cache can be moved"


def test_progress_goes_from_nothing_to_all(pulls: LocalPulls) -> None:
    content = pulls.hub.add("model.gguf", MODEL)
    pulls.pull("hf:org/repo")
    downloads = [progress for progress in pulls.seen if progress.stage == "download"]
    assert [progress.done for progress in downloads] == sorted(progress.done for progress in downloads)
    last = downloads[-1]
    assert (last.file, last.digest) == ("model.gguf", f"sha256:{content.sha256}")
    assert (last.done, last.total, last.all_done, last.all_total) == (len(MODEL),) * 4
    assert pulls.seen[-1].stage == "write"


def test_what_is_here_is_not_downloaded_again(pulls: LocalPulls) -> None:
    pulls.hub.add("model.gguf", MODEL)
    first = pulls.pull("hf:org/repo")
    pulls.storage.files.clear()
    again = pulls.pull("hf:org/repo")
    assert (again.path, again.present) == (first.path, True)


def test_a_new_commit_with_the_same_file_takes_it_from_the_cache(pulls: LocalPulls) -> None:
    pulls.hub.add("model.gguf", MODEL)
    pulls.pull("hf:org/repo")
    pulls.storage.files.clear()
    pulls.hub.commit = OTHER_COMMIT
    pulled = pulls.pull("hf:org/repo")
    assert OTHER_COMMIT in pulled.path
    assert Path(pulled.path).read_bytes() == MODEL
    assert (pulls.cache / REPO / "refs" / "main").read_text() == OTHER_COMMIT


def test_the_named_quantisation_is_taken(pulls: LocalPulls) -> None:
    pulls.hub.add("model-Q4_K_M.gguf", MODEL)
    wanted = pulls.hub.add("model-Q8_0.gguf", MODEL + b"8")
    assert Path(pulls.pull("hf:org/repo:q8_0").path).resolve().name == wanted.sha256
    error = failure(pulls, "hf:org/repo:Q2_K")
    assert error.reason == "missing"
    assert "Q4_K_M" in str(error)


def test_the_quantisation_that_fits_is_chosen(pulls: LocalPulls) -> None:
    """The larger one is a listing's entry: nothing has to be as large as it says."""
    entry = {"rfilename": "model-Q4_K_M.gguf", "size": 9_000_000_000, "blobId": "a" * 40}
    pulls.hub.extra = [{**entry, "lfs": {"sha256": "b" * 64, "size": 9_000_000_000}}]
    pulls.hub.add("model-Q3_K_M.gguf", MODEL)
    assert pulls.pull("hf:org/repo", memory=4_000_000_000).path.endswith("model-Q3_K_M.gguf")


def test_nothing_is_pulled_that_does_not_fit_unless_it_is_named(pulls: LocalPulls) -> None:
    pulls.hub.add("model-Q4_K_M.gguf", MODEL)
    with pytest.raises(PullFailed, match=r"no quantisation that fits into 0\.5 GB .* as in hf:org/repo:Q4_K_M"):
        pulls.pull("hf:org/repo", memory=500_000_000)
    assert pulls.pull("hf:org/repo:Q4_K_M", memory=500_000_000).path.endswith("model-Q4_K_M.gguf")


def test_all_shards_come_and_the_first_one_is_the_model(pulls: LocalPulls) -> None:
    names = [f"sub/m-Q4_K_M-0000{number}-of-00003.gguf" for number in (3, 1, 2)]
    for name in names:
        pulls.hub.add(name, MODEL + name.encode())
    pulled = pulls.pull("hf:org/repo:Q4_K_M")
    assert pulled.path.endswith("/sub/m-Q4_K_M-00001-of-00003.gguf")
    assert pulled.bytes == sum(content.size for content in pulls.hub.files.values())
    for name in names:
        assert (Path(pulled.path).parent / Path(name).name).read_bytes() == MODEL + name.encode()
    assert pulls.seen[-1].all_done == pulls.seen[-1].all_total == pulled.bytes


def test_a_missing_shard_is_named(pulls: LocalPulls) -> None:
    pulls.hub.add("m-Q4_K_M-00001-of-00002.gguf", MODEL)
    error = failure(pulls, "hf:org/repo:Q4_K_M")
    assert error.reason == "missing"
    assert "shard 2" in str(error)


def test_nothing_of_a_set_has_a_name_before_all_is_there(pulls: LocalPulls) -> None:
    pulls.hub.add("m-00001-of-00002.gguf", MODEL)
    second = pulls.hub.add("m-00002-of-00002.gguf", MODEL + b"2")
    del pulls.storage.files[second.sha256]
    failure(pulls)
    assert not any("snapshots" in name or "refs" in name for name in files_below(pulls.cache))


def test_a_small_file_of_git_is_verified_by_its_blob(pulls: LocalPulls) -> None:
    content = pulls.hub.add("tiny.gguf", tiny_gguf(), lfs=False)
    pulled = pulls.pull("hf:org/repo")
    assert Path(pulled.path).resolve().name == git_digest(content)
    pulls.hub.files["tiny.gguf"].data = tiny_gguf()[:-1] + b"!"
    pulls.hub.extra = [{"rfilename": "tiny.gguf", "size": content.size, "blobId": "0" * 40}]
    assert failure(pulls).reason == "damaged"


@pytest.mark.parametrize("name", ["../../../x.gguf", "/etc/x.gguf", "a/../../x.gguf", ".x.gguf", "a\\..\\x.gguf"])
def test_a_listing_cannot_lead_out_of_the_cache(pulls: LocalPulls, name: str) -> None:
    pulls.hub.add(name, MODEL)
    assert failure(pulls).reason == "missing"
    assert files_below(pulls.cache) == []


def test_a_commit_that_is_no_commit_is_refused(pulls: LocalPulls) -> None:
    pulls.hub.add("model.gguf", MODEL)
    pulls.hub.commit = "../../../outside"
    assert failure(pulls).reason == "damaged"
    assert files_below(pulls.cache) == []


def test_a_file_without_a_checksum_is_refused(pulls: LocalPulls) -> None:
    pulls.hub.extra = [{"rfilename": "m.gguf", "size": 3, "lfs": {"sha256": "x", "size": 3}}]
    assert failure(pulls).reason == "damaged"


def test_a_gated_repository_says_what_to_do(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.hub.add("model.gguf", MODEL)
    pulls.hub.gated, pulls.hub.token = True, "hf_right"
    error = failure(pulls)
    assert error.reason == "denied"
    assert f"accept its licence at {pulls.hub.url}/org/repo" in str(error)
    assert "HF_TOKEN" in str(error)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    pulls.pull("hf:org/repo")
    assert all("authorization" not in seen.headers for seen in pulls.storage.seen), "the token stays with the hub"


def test_a_gated_repository_that_waits_for_its_owner(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pulls.hub.add("model.gguf", MODEL)
    pulls.hub.gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_waiting")
    error = failure(pulls)
    assert error.reason == "denied"
    assert "until it is granted" in str(error)
    assert "hf_waiting" not in str(error)
    assert not any(content.sha256 == name.rpartition("/")[2] for name in files_below(pulls.cache))


def test_a_missing_repository(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    error = failure(pulls, "hf:org/nothing")
    assert error.reason == "missing"
    assert "check its name; if it is private, set HF_TOKEN" in str(error)
    monkeypatch.setenv("HF_TOKEN", "hf_any")
    assert failure(pulls, "hf:org/nothing").reason == "missing"


def test_a_wrong_token_and_a_private_repository(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.hub.add("model.gguf", MODEL)
    pulls.hub.token = "hf_right"
    assert failure(pulls).reason == "missing"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    error = failure(pulls)
    assert (error.reason, "hf_wrong" in str(error)) == ("denied", False)
    assert "doesn't accept the token" in str(error)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert not pulls.pull("hf:org/repo").present


def test_a_token_that_is_none(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_gehört_mir")
    error = failure(pulls)
    assert (error.reason, "gehört" in str(error)) == ("denied", False)
    assert pulls.hub.seen == []


@pytest.mark.parametrize("endpoint", ["hub.example.com", "ftp://hub.example.com", "https://", "http://[x"])
def test_an_endpoint_that_is_none(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    error = failure(pulls)
    assert error.reason == "network"
    if endpoint != "http://[x":  # It reads as a host with an odd name.
        assert "HF_ENDPOINT" in str(error)


def test_a_token_of_the_command_line_tool_counts(pulls: LocalPulls, tmp_path: Path) -> None:
    pulls.hub.add("model.gguf", MODEL)
    pulls.hub.token = "hf_saved"
    (tmp_path / "token").write_text("hf_saved")
    assert not pulls.pull("hf:org/repo").present


def test_a_missing_revision(pulls: LocalPulls) -> None:
    error = failure(pulls, "hf:org/repo@other")
    assert (error.reason, "'other'" in str(error)) == ("missing", True)


def test_a_repository_without_models(pulls: LocalPulls) -> None:
    pulls.hub.add("model.safetensors", b"x")
    error = failure(pulls)
    assert (error.reason, ".gguf" in str(error)) == ("missing", True)


def test_a_password_in_the_endpoint_is_in_no_message(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", pulls.hub.url.replace("://", "://me:hush@"))
    pulls.hub.gated, pulls.hub.token = True, "hf_right"
    pulls.hub.add("model.gguf", MODEL)
    pulls.hub.status, pulls.hub.headers = [403], {"X-Error-Code": "GatedRepo"}
    error = str(failure(pulls))
    assert (pulls.hub.url in error, "hush" in error) == (True, False)
    monkeypatch.setattr(constants, "ENDPOINT", "htp://me:hush@127.0.0.1")
    assert "hush" not in str(failure(pulls))


def test_a_disabled_repository(pulls: LocalPulls) -> None:
    pulls.hub.status, pulls.hub.headers = [403], {"X-Error-Message": "Access to this resource is disabled."}
    assert failure(pulls).reason == "denied"


def test_a_web_page_instead_of_the_listing(pulls: LocalPulls) -> None:
    pulls.hub.html = True
    error = failure(pulls)
    assert (error.reason, "login in a browser" in str(error)) == ("damaged", True)


@pytest.mark.parametrize("body", [b'{"sha": "\xff"}', b'{"other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_a_listing_that_is_none(pulls: LocalPulls, body: bytes) -> None:
    pulls.hub.listing_body = body
    assert failure(pulls).reason == "damaged"


def test_too_many_requests_are_waited_for(pulls: LocalPulls) -> None:
    pulls.hub.add("model.gguf", MODEL)
    pulls.hub.status, pulls.hub.headers = [429, 503], {"Retry-After": "7"}
    pulls.pull("hf:org/repo")
    assert pulls.pauses == [7.0, 7.0]
    assert any("the next attempt is in 7 s" in note for note in pulls.notes)
    pulls.hub.status, pulls.hub.headers = [429], {"Retry-After": "3600"}
    error = failure(pulls)
    assert (error.reason, "3600 s" in str(error)) == ("busy", True)
    pulls.hub.status, pulls.hub.headers = [429] * 6, {}
    assert failure(pulls).reason == "busy"


def test_a_file_that_changed_between_listing_and_download(pulls: LocalPulls) -> None:
    pulls.hub.add("model.gguf", MODEL)
    pulls.hub.linked["model.gguf"] = "f" * 64
    error = failure(pulls)
    assert (error.reason, "has changed" in str(error)) == ("damaged", True)


def test_offline_mode(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = failure(pulls)
    assert (error.reason, "HF_HUB_OFFLINE" in str(error)) == ("network", True)
    assert pulls.hub.seen == []


def test_no_network(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    error = failure(pulls)
    assert (error.reason, "can't be reached" in str(error)) == ("network", True)
    assert len(pulls.pauses) == 1


def test_a_proxy_is_used_and_its_failure_is_named(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.hub.add("model.gguf", MODEL)
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    error = failure(pulls)
    assert error.reason == "network"
    assert "secret" not in str(error)
    monkeypatch.setenv("HTTP_PROXY", "no proxy:at all")
    error = failure(pulls)
    assert (error.reason, "HTTPS_PROXY" in str(error)) == ("network", True)


def test_all_requests_go_through_the_proxy(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.hub.add("model.gguf", MODEL)
    proxy = ProxyServer()
    with proxy.running():
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert Path(pulls.pull("hf:org/repo").path).read_bytes() == MODEL
        seen = [seen.path for seen in proxy.seen]
        assert [path.split("?")[0].rpartition("/")[0] for path in seen] == [
            f"{pulls.hub.url}/api/models/org/repo/revision",
            f"{pulls.hub.url}/org/repo/resolve/{COMMIT}",
            pulls.storage.url,
        ]


def test_a_proxy_that_wants_a_login(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = ProxyServer()
    proxy.status = 407
    with proxy.running():
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        error = failure(pulls)
    assert (error.reason, "the proxy wants a login" in str(error)) == ("network", True)


def test_huggingface_hub_reads_the_cache_and_downloads_nothing(pulls: LocalPulls) -> None:
    pulls.hub.add("model.gguf", MODEL)
    pulled = pulls.pull("hf:org/repo")
    asked = len(pulls.storage.seen)
    assert hf_hub_download("org/repo", "model.gguf", cache_dir=pulls.cache) == pulled.path
    assert len(pulls.storage.seen) == asked
    found = scan_cache_dir(pulls.cache)
    assert found.warnings == []
    (repo,) = found.repos
    assert (repo.repo_id, repo.size_on_disk, repo.refs["main"].commit_hash) == ("org/repo", len(MODEL), COMMIT)


def test_a_download_of_huggingface_hub_is_waited_for(pulls: LocalPulls) -> None:
    content = pulls.hub.add("model.gguf", MODEL)
    lock = pulls.cache / ".locks" / REPO / f"{content.sha256}.lock"
    lock.parent.mkdir(parents=True)
    blob = pulls.cache / REPO / "blobs" / content.sha256
    blob.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool, FileLock(lock):
        pulling = pool.submit(pulls.pull, "hf:org/repo")
        wait_for("the pull to wait", lambda: "another process downloads it" in pulls.notes)
        blob.write_bytes(MODEL)
    assert Path(pulling.result().path).read_bytes() == MODEL
    assert pulls.storage.seen == []


def test_links_of_a_file_system_without_links(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.hub.add("model.gguf", MODEL)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    pulled = pulls.pull("hf:org/repo")
    assert not Path(pulled.path).is_symlink()
    assert Path(pulled.path).read_bytes() == MODEL
    pulls.storage.files.clear()
    assert pulls.pull("hf:org/repo").present


def test_a_huge_listing_is_not_read(pulls: LocalPulls) -> None:
    pulls.hub.extra = [{"rfilename": "x" * 1000}] * 18_000
    error = failure(pulls)
    assert (error.reason, "more than 16,000,000 bytes" in str(error)) == ("damaged", True)
