"""Building native libraries: the key of the cache, machines that share it, proofs, failures, and what is pruned."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tailrace import bundle
from tailrace.engine.native_libs import NativeUnavailable, UnsupportedCpu, tiers
from tailrace.engine.native_libs.compiler import Compiler, find_compiler
from tailrace.engine.native_libs.library import (
    INTERRUPTED_AFTER_SECONDS,
    PRUNE_AFTER_SECONDS,
    Build,
    Source,
    ensure_built,
    prune,
    read_record,
)
from tailrace.engine.native_libs.tiers import TIERS, Tier

#: What isn't marked so is seen in its own library alone.
EXPORT = '__attribute__((visibility("default"))) '
#: Tiers of two made-up CPUs, whose code every machine can run.
LOW = Tier("avx512", frozenset({"low"}), ("-DTIER=1",))
HIGH = Tier("avx512-vnni", frozenset({"low", "high"}), ("-DTIER=2",))


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpu(monkeypatch, "low", "high")


def set_cpu(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: frozenset(flags))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder, headers = tmp_path / "source", tmp_path / "headers"
    (folder / "deep").mkdir(parents=True)
    headers.mkdir()
    (headers / "other.h").write_text("#define OTHER 10\n", encoding="utf-8")
    (folder / "one.c").write_text(
        f'#include "other.h"\n{EXPORT}int tier(void) {{ return OTHER + TIER; }}\n', encoding="utf-8"
    )
    # As an object file it would take the place of the other one.
    (folder / "deep" / "one.c").write_text(EXPORT + "int deep(void) { return 7; }\n", encoding="utf-8")
    return Source("made-up", folder, lambda library: [], (headers,))


def tier_of(library: Path) -> int:
    return int(ctypes.CDLL(str(library)).tier())


def test_two_machines_with_one_cache_have_a_library_each(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    set_cpu(monkeypatch, "low", "high")
    high = ensure_built(source, HIGH, cache)
    set_cpu(monkeypatch, "low")
    with pytest.raises(UnsupportedCpu, match="this CPU lacks high"):
        ensure_built(source, HIGH, cache)
    low = ensure_built(source, LOW, cache)
    assert (tier_of(low), tier_of(high)) == (11, 12)
    set_cpu(monkeypatch, "low", "high")
    before = high.stat().st_ino
    assert ensure_built(source, HIGH, cache) == high
    assert high.stat().st_ino == before
    assert {path.suffix for path in cache.iterdir()} == {".so", ".json"}
    record = read_record(low)
    assert record is not None
    assert (record.name, record.tier) == ("made-up", "avx512")


def test_all_files_of_a_source_are_in_the_library(source: Source, tmp_path: Path) -> None:
    assert ctypes.CDLL(str(ensure_built(source, LOW, tmp_path / "cache"))).deep() == 7


def test_the_key_has_all_that_the_code_depends_on(source: Source, tmp_path: Path) -> None:
    compiler = find_compiler()

    def path(tier: Tier = LOW, compiler: Compiler = compiler) -> Path:
        return Build(source, tier, compiler, tmp_path).path

    seen = {path(), path(HIGH), path(compiler=Compiler(compiler.path, "another version"))}
    seen.add(path(Tier(LOW.name, LOW.cpu_flags, ("-DTIER=3",))))
    (source.folder / "deep" / "one.c").write_text("int deep(void) { return 8; }\n", encoding="utf-8")
    seen.add(path())
    (source.include[0] / "other.h").write_text("#define OTHER 20\n", encoding="utf-8")
    seen.add(path())
    assert len(seen) == 6


def test_no_flag_means_the_machine_that_compiles() -> None:
    for tier in TIERS.values():
        assert not [flag for flag in tier.compiler_flags if "native" in flag]


def test_a_library_with_wrong_results_is_not_cached(source: Source, tmp_path: Path) -> None:
    wrong = Source(source.name, source.folder, lambda library: ["this", "that"], source.include)
    with pytest.raises(NativeUnavailable, match="computes this, that wrongly"):
        ensure_built(wrong, LOW, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.so"))


def test_processes_that_want_a_library_at_once_wait_for_the_one_that_makes_it(source: Source, tmp_path: Path) -> None:
    """Locks are of open files, so threads are as good as processes."""
    cache = tmp_path / "cache"
    proved: list[str] = []

    def prove(library: ctypes.CDLL) -> list[str]:
        proved.append("once")
        return []

    counted = Source(source.name, source.folder, prove, source.include)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda number: ensure_built(counted, LOW, cache), range(4)))
    assert len(set(made)) == len(proved) == 1
    assert {path.suffix for path in cache.iterdir()} == {".so", ".json"}


def test_a_failed_proof_is_remembered_until_code_or_proof_change(source: Source, tmp_path: Path) -> None:
    cache, proof = tmp_path / "cache", source.folder / "proof.py"
    proof.write_text("# Computes sums.", encoding="utf-8")
    proved: list[str] = []

    def prove(library: ctypes.CDLL) -> list[str]:
        proved.append("once")
        return ["sums"]

    wrong = Source(source.name, source.folder, prove, source.include)

    def refused(*, again: bool = False) -> int:
        with pytest.raises(NativeUnavailable, match="computes sums wrongly"):
            ensure_built(wrong, LOW, cache, again=again)
        return len(proved)

    assert (refused(), refused()) == (1, 1), "it takes a minute, at each start of each process"
    assert refused(again=True) == 2
    proof.write_text("# Computes sums in another way.", encoding="utf-8")
    assert (refused(), refused()) == (3, 3)
    (source.folder / "deep" / "one.c").write_text("int deep(void) { return 8; }\n", encoding="utf-8")
    assert refused() == 4
    (note, *_) = cache.glob("*.wrong")
    note.write_bytes(b"{")
    assert ensure_built(source, HIGH, cache).is_file(), "another tier has failed nothing"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '_Static_assert(sizeof(int) == 5, "ggml_tensor.ne is where it was");\n',
            "can't compile it: static assertion failed: ggml_tensor.ne is where it was$",
        ),
        ('#include "missing.h"\n', r"missing\.h: No such file|'missing\.h' file not found"),
    ],
)
def test_what_does_not_fit_is_named(source: Source, tmp_path: Path, text: str, reason: str) -> None:
    (source.folder / "wrong.c").write_text(text, encoding="utf-8")
    with pytest.raises(NativeUnavailable, match=reason):
        ensure_built(source, LOW, tmp_path / "cache")


def test_a_library_that_can_not_be_loaded_is_named(source: Source, tmp_path: Path) -> None:
    (source.folder / "wrong.c").write_text(f"extern int nowhere; {EXPORT}int f(void) {{ return nowhere; }}\n")
    with pytest.raises(NativeUnavailable, match=r"can't be loaded: .*nowhere"):
        ensure_built(source, LOW, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def _put(library: Path, content: bytes) -> None:
    """Replace the file: this process has the old one in its memory."""
    library.unlink()
    library.write_bytes(content)


def _emptied(library: Path) -> None:
    _put(library, b"")


def _cut(library: Path) -> None:
    _put(library, library.read_bytes()[:-2000])


def _one_bit_other(library: Path) -> None:
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    _put(library, bytes(content))


def _without_record(library: Path) -> None:
    library.with_suffix(".json").unlink()


def _with_an_empty_record(library: Path) -> None:
    library.with_suffix(".json").write_bytes(b"")


def _writable_for_all(library: Path) -> None:
    library.chmod(0o666)


def _in_a_folder_that_is_writable_for_all(library: Path) -> None:
    library.parent.chmod(0o777)


@pytest.mark.parametrize(
    "damage",
    [
        _emptied,
        _cut,
        _one_bit_other,
        _without_record,
        _with_an_empty_record,
        _writable_for_all,
        _in_a_folder_that_is_writable_for_all,
    ],
)
def test_a_library_that_is_not_what_was_proved_is_built_again(
    source: Source, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache = tmp_path / "cache"
    library = ensure_built(source, LOW, cache)
    damage(library)
    assert tier_of(ensure_built(source, LOW, cache)) == 11
    before = library.stat().st_ino
    assert ensure_built(source, LOW, cache).stat().st_ino == before, "the new one is good"
    assert cache.stat().st_mode & 0o022 == 0


def test_a_library_of_another_user_is_not_loaded(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    ensure_built(source, LOW, cache)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    # Root's own are trusted.
    if os.getuid() != 0:
        with pytest.raises(NativeUnavailable, match="cache belongs to another user: set XDG_CACHE_HOME"):
            ensure_built(source, LOW, cache)
    else:
        for path in (cache, *cache.iterdir()):
            os.chown(path, 4321, 4321)
        with pytest.raises(NativeUnavailable, match="cache belongs to another user: set XDG_CACHE_HOME"):
            ensure_built(source, LOW, cache)


def test_a_cache_that_can_not_be_written_is_named(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(NativeUnavailable, match="file/cache can't be written"):
        ensure_built(source, LOW, tmp_path / "file" / "cache")


def test_builds_that_no_process_has_loaded_for_long_are_pruned(source: Source, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    used, unused = ensure_built(source, LOW, cache), ensure_built(source, HIGH, cache)
    (cache / "building-x").mkdir()
    (cache / "building-x" / "one.o").write_text("", encoding="utf-8")
    (cache / "0123456789abcdef.so").write_text("", encoding="utf-8")  # As earlier versions named them.
    for kind in ("wrong", "lock"):
        (cache / f"0123456789abcdef.{kind}").write_text("", encoding="utf-8")
    long_ago = time.time() - PRUNE_AFTER_SECONDS - 60
    for path in list(cache.iterdir()):
        os.utime(path, (long_ago, long_ago))
    assert ensure_built(source, LOW, cache) == used  # Its use counts.
    prune(cache)
    assert set(cache.iterdir()) == {used, used.with_suffix(".json")}
    assert ensure_built(source, HIGH, cache) == unused


def test_an_interrupted_build_is_pruned_after_a_day(tmp_path: Path) -> None:
    now = time.time()
    for name, age in (("building-now", 3600.0), ("building-interrupted", INTERRUPTED_AFTER_SECONDS + 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (now - age, now - age))
    prune(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "building-now"]


def test_making_a_library_prunes_the_others(source: Source, tmp_path: Path) -> None:
    old = ensure_built(source, LOW, tmp_path)
    os.utime(old, (0, 0))
    ensure_built(source, HIGH, tmp_path)
    assert not old.exists()


def test_a_wheels_library_is_proved_and_kept_without_a_compiler(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Build(source, LOW, find_compiler(), tmp_path)
    bundled = tmp_path / "bundled.so"
    made.write(bundled)
    monkeypatch.setattr(bundle, "compiler", lambda: "gcc 12 of the wheel")
    monkeypatch.setattr(
        bundle, "library", lambda name, tier: bundled if (name, tier) == ("made-up", LOW.name) else None
    )
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    kept = ensure_built(source, LOW, tmp_path / "cache")
    assert tier_of(kept) == 11
    record = read_record(kept)
    assert record is not None
    assert record.compiler == "gcc 12 of the wheel"
    assert ensure_built(source, LOW, tmp_path / "cache") == kept
    with pytest.raises(NativeUnavailable, match="no library made-up for avx512-vnni"):
        ensure_built(source, HIGH, tmp_path / "cache")
    wrong = Source("made-up", source.folder, lambda library: ["sums"], source.include)
    with pytest.raises(NativeUnavailable, match="computes sums wrongly"):
        ensure_built(wrong, LOW, tmp_path / "other")
