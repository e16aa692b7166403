"""`ulp.tune`: what it measures wins, is kept, and no cache file can do harm."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreter import output_of, run_python
from reference import assert_exact, matmul, random_matrix

import ulp
from ulp import _core, _measure, _tune

SHAPE = (9, 40, 65)
PAIR = (3, 3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "below" / "tune.json"
    monkeypatch.setenv("ULP_TUNE_CACHE", str(path))
    _core.forget_tuned()
    yield path
    _core.forget_tuned()


def slowest() -> str:
    """The kernel that is chosen last."""
    return [c.name for c in ulp.explain(*SHAPE, bits=PAIR).candidates if c.runnable][-1]


def run(m: int, n: int, k: int) -> str:
    """The kernel that the default choice ran, its result having been right."""
    rng = np.random.default_rng(0)
    a, b = random_matrix(rng, (m, k), PAIR[0], False), random_matrix(rng, (k, n), PAIR[1], True)
    assert_exact(ulp.gemm(a, b, bits=PAIR), matmul(a, b), "tuned")
    return _core.last_kernel()


def reload() -> None:
    """What a new process does."""
    _core.forget_tuned()
    _tune.load(os.environ)


def test_tuning_measures_ranks_and_is_kept(cache: Path) -> None:
    explanation = ulp.tune(*SHAPE, bits=PAIR)
    best = explanation.candidates[0]
    assert best.basis == "tuned"
    assert best.seconds > 0
    assert run(*SHAPE) == best.name == explanation.kernel
    assert "tuned" in str(explanation)
    tuned = {c.name: c.seconds for c in explanation.candidates if c.basis == "tuned"}
    assert list(tuned.values()) == sorted(tuned.values())
    (machine,) = json.loads(cache.read_text())["tuned"].items()
    assert machine[0].endswith(f" | {ulp.get_isa()} | {ulp.__version__}")
    assert machine[1] == {"9x40x65 W3A3": tuned}
    reload()
    assert str(ulp.explain(*SHAPE, bits=PAIR)) == str(explanation)


def test_a_tuned_kernel_wins_at_its_shape_alone() -> None:
    name = slowest()
    if name == ulp.explain(*SHAPE, bits=PAIR).kernel:
        pytest.skip("one kernel only")
    _core.set_tuned(*SHAPE, *PAIR, {name: 1e-3})
    assert run(*SHAPE) == name
    assert run(SHAPE[0] + 1, *SHAPE[1:]) != name
    assert ulp.explain(*SHAPE, bits=(2, 3)).kernel != name
    first, second = ulp.explain(*SHAPE, bits=PAIR).candidates[:2]
    assert first.basis == "tuned"
    assert second.basis != "tuned"
    _core.forget_tuned()
    assert run(*SHAPE) != name


def test_a_second_shape_is_added_and_a_repetition_replaces(cache: Path) -> None:
    for shape in (SHAPE, (1, 32, 64), SHAPE):
        ulp.tune(*shape, bits=PAIR)
    (shapes,) = json.loads(cache.read_text())["tuned"].values()
    assert set(shapes) == {"9x40x65 W3A3", "1x32x64 W3A3"}
    assert [entry.name for entry in cache.parent.iterdir()] == [cache.name]


def test_a_lower_isa_takes_the_best_kernel_that_runs() -> None:
    ulp.tune(*SHAPE, bits=PAIR)
    ulp.set_isa("baseline")
    assert run(*SHAPE) == "mul8_scalar_4x32"


def entry(seconds: object, shape: str = "9x40x65 W3A3") -> str:
    return json.dumps({"schema": 1, "tuned": {_tune._machine(): {shape: seconds}}})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00garbage",
        b"null",
        b"[]",
        b'{"schema": 2, "tuned": {}}',
        b'{"schema": 1, "tuned": []}',
        b'{"schema": 1, "tuned": {"some CPU": 3}}',
        b'{"schema": 1, "tuned": {"some CPU": {"9x40x65 W3A3": [1.0]}}}',
        b"[" * 100_000,
        b"9" * 100_000,
        b'{"schema": 1, "tuned"',
        entry({"no_such_kernel": 1.0}).encode(),
        entry({"mul8_scalar_4x32": float("nan")}).encode(),
        entry({"mul8_scalar_4x32": float("inf")}).encode(),
        entry({"mul8_scalar_4x32": 0.0}).encode(),
        entry({"mul8_scalar_4x32": -1.0}).encode(),
        entry({"mul8_scalar_4x32": 1}).encode(),
        entry({"mul8_scalar_4x32": True}).encode(),
        entry({"mul8_scalar_4x32": 1.0}, "9x40 W3A3").encode(),
        entry({"mul8_scalar_4x32": 1.0}, "9x40x65 W9A3").encode(),
        entry({"mul8_scalar_4x32": 1.0}, "99999999999x1x1 W3A3").encode(),
        entry({"mul8_scalar_4x32": 1.0}, "٣x1x1 W3A3").encode(),
        b'{"schema": 1, "tuned": {}, "measured": []}',
        b'{"schema": 1, "tuned": {}, "measured": {"some CPU": 1}}',
        b'{"schema": 1, "tuned": {}, "measured": {"some CPU": {"mul8_scalar_4x32 W3A3": 1}}}',
        json.dumps({"schema": 1, "tuned": {}, "measured": {_tune._machine(): {"mul8_scalar_4x32 W3A3": [1.0]}}}).encode(),
        json.dumps({"schema": 1, "tuned": {}, "measured": {_tune._machine(): {"mul8_scalar_4x32 W9A3": [1.0] * 5}}}).encode(),
    ],
    ids=range(27),
)
def test_a_garbled_cache_is_ignored_with_a_warning(cache: Path, content: bytes) -> None:
    before = str(ulp.explain(*SHAPE, bits=PAIR))
    cache.parent.mkdir()
    cache.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"ignores its tuning cache .*tune\.json"):
        reload()
    assert str(ulp.explain(*SHAPE, bits=PAIR)) == before
    ulp.tune(*SHAPE, bits=PAIR)  # and it is replaced
    reload()
    assert ulp.explain(*SHAPE, bits=PAIR).candidates[0].basis == "tuned"


def test_a_huge_file_a_directory_and_a_pipe_are_no_cache(cache: Path) -> None:
    cache.parent.mkdir()
    with cache.open("wb") as file:
        file.truncate(_tune._MAX_BYTES + 1)
    with pytest.warns(RuntimeWarning, match="larger than"):
        reload()
    cache.unlink()
    cache.mkdir()
    with pytest.warns(RuntimeWarning, match="not a file"):
        reload()
    with pytest.warns(RuntimeWarning, match="cannot keep"):
        ulp.tune(*SHAPE, bits=PAIR)
    cache.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(cache)
        with pytest.warns(RuntimeWarning, match="not a file"):
            reload()


def test_a_place_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user directory that may not be searched is nobody's fault, and no reason not to start; one that was named is worth a warning."""

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    _tune.load({name: str(tmp_path) for name in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA")})
    with pytest.warns(RuntimeWarning, match=r"ignores its tuning cache .*Permission denied"):
        _tune.load({"ULP_TUNE_CACHE": str(tmp_path / "tune.json")})


@pytest.mark.skipif(os.name == "nt", reason="names of directories of another system")
def test_a_name_that_is_too_long() -> None:
    run = output_of("import ulp; print(ulp.gemm([[1]], [[1]], bits=1))", "-W", "error", ULP_TUNE_CACHE="", XDG_CACHE_HOME="/" + "a" * 300)
    assert run == "[[1]]\n"
    done = run_python("import ulp", ULP_TUNE_CACHE="/" + "a" * 300)
    assert (done.returncode, "ignores its tuning cache" in done.stderr) == (0, True)


def test_writers_at_the_same_time_lose_nothing(cache: Path) -> None:
    shapes = [f"{m}x8x8 W3A3" for m in range(1, 49)]

    def write(some: list[str]) -> None:
        for shape in some:
            _tune._remember("tuned", {shape: {"mul8_scalar_4x32": 1.0}}, "this machine")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, [shapes[i::6] for i in range(6)]))
    (kept,) = json.loads(cache.read_text())["tuned"].values()
    assert set(kept) == set(shapes)
    assert [entry.name for entry in cache.parent.iterdir()] == [cache.name]


@pytest.mark.parametrize("call", [1, 2, 7, 40])
def test_the_isa_is_limited_meanwhile(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread: kernels that no longer run drop out."""
    isa, gemm, calls = ulp.get_isa(), _core.gemm, itertools.count(1)

    def limited(*args: Any) -> Any:
        if next(calls) == call:
            ulp.set_isa("baseline")
        return gemm(*args)

    monkeypatch.setattr(_core, "gemm", limited)
    for name, value in {"HEIGHTS": (1, 4), "_ROUNDS": 2, "_SAMPLE_NS": 1000, "_FEW_SIDE": 64}.items():  # the portable kernel is slow
        monkeypatch.setattr(_measure, name, value)
    try:
        explanation = ulp.tune(*SHAPE, bits=PAIR)
        assert explanation.kernel == "mul8_scalar_4x32"
        assert next(calls) > call
        ulp.set_isa(isa)
        calls = itertools.count(1)
        names = [kernel.name for kernel in ulp.kernels() if kernel.available][-2:]
        monkeypatch.setattr(_measure, "kernels", lambda: [k for k in ulp.kernels() if k.name in names])
        costs = _measure.measure(progress=False)
        assert {key.split()[0] for key in costs} == {"mul8_scalar_4x32"}
    finally:
        ulp.set_isa(isa)


def test_a_slow_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minimum over rounds: a machine that is busy in most of them changes nothing."""
    clock = itertools.accumulate(itertools.chain([0.0] * 4, itertools.cycle([0.0, 5.0, 0.0, 5.0, 0.0, 1e-3])))
    monkeypatch.setattr(_tune, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(_tune, "_SAMPLE_SECONDS", 0.0)
    assert _tune._Samples(1, 8, 8, *PAIR)(["mul8_scalar_4x32"]) == {"mul8_scalar_4x32": pytest.approx(1e-3, rel=1e-3)}


def settled(first: dict[str, float], expected: str, *again: dict[str, float]) -> dict[str, float]:
    """What `tune` keeps of these times, and of these when it looks again."""
    later = iter(again)
    kept = _tune._settled(lambda _: next(later), first, expected)
    assert next(later, None) is None, "fewer looks than expected"
    return kept


def test_the_expected_kernel_stays_within_the_margin() -> None:
    kept = settled({"a": 1.0, "b": 0.98, "c": 2.0}, "a")
    assert min(kept, key=lambda name: kept[name]) == "a"
    assert kept["b"] == pytest.approx(1.0)
    assert kept["c"] == 2.0


def test_a_kernel_that_is_not_faster_when_timed_again_is_not_kept() -> None:
    kept = settled({"a": 1.0, "b": 0.5, "c": 0.8}, "a", {"a": 0.9, "b": 0.95}, {"a": 1.0, "c": 0.7})
    assert min(kept, key=lambda name: kept[name]) == "c"
    assert kept["a"] == 0.9
    assert kept["b"] >= 0.9
    kept = settled({"a": 1.0, "b": 0.5}, "a", {"a": 1.0, "b": 1.5})
    assert min(kept, key=lambda name: kept[name]) == "a"
    kept = settled({"a": 1.0, "b": 0.5}, "a", {"a": 1.0, "b": 0.6})
    assert min(kept, key=lambda name: kept[name]) == "b"


def test_what_was_tuned_can_be_forgotten(cache: Path) -> None:
    before = str(ulp.explain(*SHAPE, bits=PAIR))
    ulp.tune.forget()  # nothing: no file comes of it
    assert not cache.exists()
    ulp.tune(*SHAPE, bits=PAIR)
    other = {"9x40x65 W3A3": {"mul8_scalar_4x32": 1.0}}
    content = json.loads(cache.read_text())
    cache.write_text(json.dumps({**content, "tuned": {**content["tuned"], "another CPU": other}}))
    ulp.tune.forget()
    assert str(ulp.explain(*SHAPE, bits=PAIR)) == before
    reload()
    assert str(ulp.explain(*SHAPE, bits=PAIR)) == before
    assert json.loads(cache.read_text()) == {"schema": 1, "tuned": {"another CPU": other}}


def test_the_whole_machine_is_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "HEIGHTS", (1, 4))
    monkeypatch.setattr(_measure, "_FEW_SIDE", 32)
    monkeypatch.setattr(_measure, "_SAMPLE_NS", 1)
    monkeypatch.setattr(_measure, "_ROUNDS", 2)
    threads = ulp.get_num_threads()
    costs = ulp.tune.machine()
    assert ulp.get_num_threads() == threads
    assert set(costs) == {f"{kernel} W{b}A{a}" for kernel in ulp.kernels() if kernel.available for a, b in kernel.pairs}
    assert all(len(figures) == 2 and min(figures) > 0 for figures in costs.values())
    ranking = ulp.explain(1, 512, 512, bits="W3A3")
    assert {c.basis for c in ranking.candidates if c.runnable} == {"measured here"}
    for candidate in ranking.candidates:
        if candidate.runnable:
            assert candidate.seconds == pytest.approx(1e-15 * costs[f"{candidate.kernel} W3A3"][0] * 512 * 512)
    assert ulp.tune(*SHAPE, bits=PAIR).candidates[0].basis == "tuned"
    reload()
    assert str(ulp.explain(1, 512, 512, bits=3)) == str(ranking)
    assert set(json.loads(cache.read_text())) == {"schema", "tuned", "measured"}
    ulp.tune.forget()
    assert "measured here" not in str(ulp.explain(1, 512, 512, bits=3))


def test_costs_between_measured_heights() -> None:
    name = ulp.kernels(bits=3).names[-1]
    _core.set_measured([1, 4], [(name, 3, 3, [8e5, 5e5])])
    # N and K as measured: smaller products have overheads beside.
    seconds = {m: next(c.seconds for c in ulp.explain(m, 1000, 1000, bits=3).candidates if c.kernel == name) for m in (0, 1, 2, 4, 8)}
    assert seconds == {0: 0.0, 1: pytest.approx(8e-4), 2: pytest.approx(1.2e-3), 4: pytest.approx(2e-3), 8: pytest.approx(4e-3)}
    for heights, cost in (([2, 1], [1.0, 1.0]), ([1], [1.0, 1.0]), ([1], [0.0]), ([0], [1.0]), ([1], [float("nan")])):
        with pytest.raises(ValueError, match=r"heights|height|cost"):
            _core.set_measured(heights, [(name, 3, 3, cost)])
    for wrong in (("no_kernel", 3, 3), (name, 9, 3), (name, 3, 0)):
        with pytest.raises(ValueError, match="kernel"):
            _core.set_measured([1], [(*wrong, [1.0])])


def test_another_cpu_isa_or_version_does_not_count(cache: Path) -> None:
    ulp.tune(*SHAPE, bits=PAIR)
    cpu, isa, version = _tune._machine().split(" | ")
    content = cache.read_text()
    for other in (f"other {cpu} | {isa} | {version}", f"{cpu} | {isa}x | {version}", f"{cpu} | {isa} | {version}.1"):
        cache.write_text(content.replace(_tune._machine(), other))
        reload()
        assert all(c.basis != "tuned" for c in ulp.explain(*SHAPE, bits=PAIR).candidates)


def test_no_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reload()  # no file: nothing to say
    monkeypatch.setenv("ULP_TUNE_CACHE", "off")
    assert ulp.tune(*SHAPE, bits=PAIR).candidates[0].basis == "tuned"
    assert not cache.parent.exists()
    monkeypatch.delenv("ULP_TUNE_CACHE")
    for name in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert ulp.tune(*SHAPE, bits=PAIR).candidates[0].basis == "tuned"


@pytest.mark.skipif(os.name == "nt", reason="names of directories of another system")
def test_the_default_place_is_the_users_cache_directory() -> None:
    assert _tune._cache_path({"XDG_CACHE_HOME": "/cache", "HOME": "/home/me"}) in (
        Path("/cache/ulp/tune.json"),
        Path("/home/me/Library/Caches/ulp/tune.json"),
    )


@pytest.mark.parametrize("arguments", [(0, 8, 8), (8, 0, 8), (8, 8, 0), (2**31, 8, 8)])
def test_what_cannot_be_timed_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"[MNK]=\d+: expected an integer from 1 to 2147483647"):
        ulp.tune(*arguments, bits=3)
    with pytest.raises(ValueError, match="bits=9"):
        ulp.tune(8, 8, 8, bits=9)
