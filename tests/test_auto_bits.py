"""`bits="auto"`: the integer program finds the optimum, what is measured is remembered, and what comes out keeps the budget."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("scipy")

from defaults import set_defaults  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from onnx_models import Writer, chain  # noqa: E402
from reference import Array  # noqa: E402

import ulp  # noqa: E402
from ulp.nn.profile import Profile, ProfileRow  # noqa: E402
from ulp.quantize import Bits, Budget, Choice, FloatNetwork, Point, auto, latency, quantize  # noqa: E402
from ulp.quantize.anew import Anew  # noqa: E402
from ulp.quantize.program import LayerOptions, Option, Quantity, dominated, solve, total  # noqa: E402
from ulp.quantize.search import _Search  # noqa: E402
from ulp.quantize.sensitivity import _like, sensitivities  # noqa: E402
from ulp.quantize.trial import Trial  # noqa: E402

PAIRS = (Bits(8, 8), Bits(4, 8), Bits(4, 4), Bits(2, 2))
QUICK: dict[str, Any] = {"pairs": PAIRS, "rounding": "nearest", "bias_correction": False, "progress": False}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ULP_TUNE_CACHE", str(tmp_path / "cache" / "tune.json"))
    return tmp_path / "cache" / "latency.json"


def images(count: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> FloatNetwork:
    return FloatNetwork(chain(), images(48), progress=False)


# The program.


def random_layers(rng: np.random.Generator) -> list[LayerOptions]:
    """Four layers, of which two read one tensor."""
    layers = []
    for i, tensor in enumerate(("x", "a", "a", "b")):
        options = [Option(pair, *(float(value) for value in rng.integers(1, 50, 3))) for pair in (*PAIRS, Bits(3, 4))]
        layers.append(LayerOptions(f"layer{i}", tensor, options))
    return layers


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("least", "limits"), [("error", {"ms": 90.0}), ("error", {"ms": 110.0, "nbytes": 80.0}), ("ms", {"error": 80.0}), ("nbytes", {})]
)
def test_the_programs_optimum_is_that_of_all_combinations(seed: int, least: Quantity, limits: dict[Quantity, float]) -> None:
    layers = random_layers(np.random.default_rng(seed))

    def allowed(options: tuple[Option, ...]) -> bool:
        one_width = options[1].bits.activation == options[2].bits.activation
        return one_width and all(sum(getattr(o, what) for o in options) <= limit for what, limit in limits.items())

    sums = [sum(getattr(o, least) for o in options) for options in itertools.product(*(one.options for one in layers)) if allowed(options)]
    chosen = solve(layers, least, limits)
    if not sums:
        assert chosen is None
        return
    assert chosen is not None
    assert allowed(tuple(chosen.values()))
    assert total(chosen, least) == pytest.approx(min(sums), rel=2e-4)


def test_dominated_options_change_no_optimum() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        layers = random_layers(rng)
        fewer = [LayerOptions(one.name, one.tensor, [o for o in one.options if o.bits not in dominated(one.options)]) for one in layers]
        whole, part = solve(layers, "error", {"ms": 100.0}), solve(fewer, "error", {"ms": 100.0})
        assert (whole is None) == (part is None)
        if whole and part:
            assert total(part, "error") == pytest.approx(total(whole, "error"), rel=2e-4)


def test_equal_options_that_dominate_each_other_leave_one() -> None:
    same = [Option(Bits(weight, 8), 1.0, 1.0, 1.0) for weight in (2, 4, 8)]
    assert len(dominated(same)) == 2


def test_scipy_is_asked_for(monkeypatch: pytest.MonkeyPatch, network: FloatNetwork) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"ulp-gemm\[quantize\]"):
        auto(network, Budget(max_ms=1), progress=False)


# Latencies.


def test_latencies_are_remembered_by_layer_and_bits(own_cache: Path) -> None:
    calls: list[Bits] = []

    def timed(pairs: Sequence[Bits]) -> dict[Bits, dict[str, float]]:
        calls.extend(pairs)
        return {pair: {"conv": pair.weight + 1.0} for pair in pairs}

    text = latency.signature("Conv", (1, 3, 8, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "group": 1})
    assert text == "Conv 1x3x8x8 4x3x3x3 group=1 pads=1,1,1,1"
    first = latency.measured({"conv": text}, PAIRS[:2], timed)
    assert first == {("conv", Bits(8, 8)): 9.0, ("conv", Bits(4, 8)): 5.0}
    assert latency.measured({"other name": text}, PAIRS[:2], timed) == {("other name", pair): ms for (_, pair), ms in first.items()}
    assert calls == list(PAIRS[:2])
    latency.measured({"conv": text}, PAIRS[1:3], timed)
    assert calls == [*PAIRS[:2], PAIRS[2], PAIRS[1]]  # one that is known is measured with those that are not
    assert json.loads(own_cache.read_text())["ms"][latency.machine()] == {f"{text} W8A8": 9.0, f"{text} W4A8": 5.0, f"{text} W4A4": 5.0}
    latency.forget()
    latency.measured({"conv": text}, PAIRS[:1], timed)
    assert calls[4:] == [PAIRS[0]]


def test_latencies_that_were_measured_at_another_pace_are_comparable() -> None:
    """A CPU that has become twice as slow must not make the pairs that are measured then look twice as slow."""
    pace = iter([1.0, 2.0])

    def timed(pairs: Sequence[Bits]) -> dict[Bits, dict[str, float]]:
        slower = next(pace)
        return {pair: {"a": slower * pair.weight, "b": slower} for pair in pairs}

    texts = {"a": "Conv a", "b": "Conv b"}
    latency.measured(texts, PAIRS[:2], timed)
    found = latency.measured(texts, PAIRS, timed)
    assert found == {(name, pair): float(pair.weight if name == "a" else 1) for pair in PAIRS for name in texts}


DAMAGED = (
    *("", "[]", "{}", '{"schema": 2, "ms": {}}', '{"schema": 1, "ms": []}', '{"schema": 1, "ms": {"a": 1}}', "[" * 100_000),
    *(f'{{"schema": 1, "ms": {{"a": {{"k": {value}}}}}}}' for value in ("-1.0", '"1"', "NaN", "1")),
)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_ignored_and_written_anew(own_cache: Path, content: str) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text(content)
    with pytest.warns(RuntimeWarning, match="ulp ignores its latencies"):
        latency.measured({"conv": "Conv"}, PAIRS[:1], lambda pairs: {key: {"conv": 2.0} for key in pairs})
    assert latency.measured({"conv": "Conv"}, PAIRS[:1], lambda _: pytest.fail("measured again")) == {("conv", PAIRS[0]): 2.0}


def test_nothing_is_kept_where_the_cache_is_off(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULP_TUNE_CACHE", "off")
    assert latency.path() is None
    latency.measured({"conv": "Conv"}, PAIRS[:1], lambda pairs: {key: {"conv": 2.0} for key in pairs})
    assert not own_cache.parent.exists()


def test_a_layers_time_is_that_of_all_its_steps() -> None:
    rows = [ProfileRow(layer, "Conv", "s", "k", (4, 4), (1,), 1, ms, 0.0) for layer, ms in (("a", 2.0), ("b", 4.0), ("a", 1.0))]
    assert latency.times_of(Profile(rows), ["a", "c"]) == {"a": 3.0, "c": 0.0}


# Sensitivities.


def test_sensitivities_are_what_changed_weights_do_to_the_outputs(network: FloatNetwork) -> None:
    from onnxruntime import InferenceSession

    from ulp.quantize.weights import quantized_weight

    found = sensitivities(network, PAIRS)
    prepared = network._prepared
    exact = np.concatenate([outputs[0] for outputs in network.outputs()])
    for layer in prepared.layers:
        changed = onnx.ModelProto()
        changed.CopyFrom(prepared.proto)
        values = quantized_weight(layer, prepared.constants[layer.weight], 4).values()
        next(t for t in changed.graph.initializer if t.name == layer.weight).CopyFrom(numpy_helper.from_array(values, layer.weight))
        session = InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
        y = np.concatenate([session.run(None, batch)[0] for batch in network.batches])
        expected = np.square(y - exact).sum() / np.square(exact).sum()
        assert found.weights[layer.name, 4] == pytest.approx(expected, rel=1e-3)
        assert found.activations[layer.name, 8] < found.activations[layer.name, 4] < found.activations[layer.name, 2]


def test_errors_of_large_models_follow_from_one_width(network: FloatNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = sensitivities(network, PAIRS)
    monkeypatch.setattr("ulp.quantize.sensitivity._WORK", 1.0)
    scaled = sensitivities(network, PAIRS)
    for layer in network.layers:
        for width in (8, 4):
            # Of four inputs instead of all.
            assert 1 / 4 < scaled.weights[layer.name, width] / exact.weights[layer.name, width] < 4


def test_channels_of_unlike_units_count_alike() -> None:
    """A head of boxes in pixels beside one of probabilities: the second is not worth a millionth of the first."""
    w = Writer((3, 12, 12))
    a = w.add("Relu", w.conv("x", 3, 16))
    boxes = w.add("Mul", w.conv(a, 16, 4), w.constant(np.float32(300)))
    classes = w.add("Sigmoid", w.conv(a, 16, 6))
    network = FloatNetwork(w.model(w.add("Concat", boxes, classes, axis=1)), images(48), progress=False)
    _, of_boxes, of_classes = (layer.name for layer in network.layers)
    found = sensitivities(network, PAIRS)
    for width in (4, 2):
        assert 0.03 < found.weights[of_classes, width] / found.weights[of_boxes, width] < 30


def test_units_are_those_of_the_largest_values() -> None:
    groups = _like(np.array([300.0, 0.5, 1e-6, 40.0, 1.0, 9000.0]))
    assert [sorted(group.tolist()) for group in groups] == [[1, 2, 4], [0, 3], [5]]


# The search.


def two_readers() -> Any:
    """Two convolutions of one tensor."""
    w = Writer((3, 12, 12))
    a = w.add("Relu", w.conv("x", 3, 8))
    b = w.add("Add", w.conv(a, 8, 8), w.conv(a, 8, 8, 1))
    flat = w.add("Flatten", w.add("GlobalAveragePool", w.add("Relu", b)))
    return w.model(w.add("Gemm", flat, w.weights(5, 8), w.constant(np.zeros(5, np.float32)), transB=1))


@pytest.mark.parametrize("make", [chain, two_readers])
def test_bytes_are_kept_and_no_uniform_network_within_them_is_better(make: Any) -> None:
    network = FloatNetwork(make(), images(48), progress=False)
    most = network.quantized({layer.name: Bits(4, 8) for layer in network.layers}).load(progress=False).nbytes
    quantized = auto(network, Budget(max_bytes=most), target="baseline", **QUICK)
    assert quantized.load(progress=False).nbytes <= most
    choice = quantized.choice
    assert choice is not None
    assert choice.chosen.accuracy == max(point.accuracy for point in choice.points if point.nbytes <= most)
    assert {row.name: row.bits for row in choice.layers} == quantized.assignment == choice.chosen.assignment
    widths: dict[str, set[int]] = {}
    for layer in network.layers:
        bits = quantized.assignment[layer.name]
        assert bits is not None
        widths.setdefault(layer.x, set()).add(bits.activation)
    assert all(len(found) == 1 for found in widths.values())


def test_times_are_measured_and_kept(network: FloatNetwork, own_cache: Path) -> None:
    quantized = auto(network, Budget(max_ms=1e3), **QUICK)
    choice = quantized.choice
    assert choice is not None
    assert choice.chosen.ms < 1e3
    assert choice.chosen.accuracy == max(point.accuracy for point in choice.points)
    assert all(row.ms > 0 for row in choice.layers)
    assert latency.machine() in json.loads(own_cache.read_text())["ms"]
    with pytest.raises(ValueError, match=r"max_ms=1e-06 cannot be kept: the nearest choice takes 0\.\d+ ms .* layers: \d x W"):
        auto(network, Budget(max_ms=1e-6), **QUICK)


def test_no_slower_than_a_uniform_network(network: FloatNetwork) -> None:
    choice = auto(network, Budget(max_ms="W4A4"), **QUICK).choice
    assert choice is not None
    uniform = next(point for point in choice.points if point.label == "W4A4, ends W8A8")
    assert choice.budget == {"max_ms": uniform.ms}
    assert choice.chosen.ms <= 1.02 * uniform.ms
    assert choice.chosen.accuracy >= uniform.accuracy


def test_the_fastest_network_that_is_accurate_enough(network: FloatNetwork) -> None:
    calls: list[Any] = []

    def metric(candidate: Any) -> float:
        calls.append(candidate)
        y = candidate(images(64, seed=9))
        assert y.shape == (64, 10)
        return float(y[:, 0].mean())  # of the float model it is what it is; others are near it

    exact = metric(lambda x: np.concatenate([ulp.load(chain(), tune=False)(x)]))
    choice = auto(network, Budget(max_drop=0.5), metric=metric, target="baseline", **QUICK).choice
    assert choice is not None
    assert choice.float_accuracy == pytest.approx(exact, rel=1e-4)
    assert choice.chosen.accuracy >= exact - 0.5
    assert choice.chosen.ms == min(point.ms for point in choice.points if point.accuracy >= exact - 0.5)
    with pytest.raises(ValueError, match=r"max_drop=0 cannot be kept: the nearest choice .* \(float 1000\.00\)"):
        auto(network, Budget(max_drop=0), metric=_only_floats(), target="baseline", **QUICK)


@pytest.mark.parametrize("budget", [Budget(max_ms="W4A4"), Budget(max_drop=20)])
def test_the_best_trials_are_rounded_anew_at_the_end(network: FloatNetwork, budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials share layers that are rounded alone; what is chosen is rounded as without a search, and judged as that."""
    monkeypatch.setattr("ulp.quantize.search._FINAL_SECONDS", 0.0)
    found = auto(network, budget, target="baseline", pairs=PAIRS[:3], progress=False)
    choice = found.choice
    assert choice is not None
    assert found.model == network.quantized(found.assignment).model
    assert found.model != network.quantized(found.assignment, alone=True).model
    assert choice.chosen in choice.points
    assert choice.chosen.final
    final = [point for point in choice.points if point.final]
    assert len({tuple(point.assignment.items()) for point in choice.points}) == len(choice.points) > len(final)
    if budget.max_drop is None:
        assert len(final) == 2
        assert choice.chosen.accuracy == max(point.accuracy for point in final)
        assert any(point.label == "W4A4, ends W8A8" for point in final)
    else:
        assert choice.chosen.accuracy >= 80


def _trial(ms: float, accuracy: float) -> Trial:
    quantized: Any = None
    return Trial(str(ms), {}, quantized, None, ms, accuracy)


@pytest.mark.parametrize(
    ("trials", "anew", "rounded"),
    [
        ([60, 85, 90, 95], [70, 90, 95, 97], [2.0, 1.0]),  # 1 keeps the budget of 80 when rounded anew, too
        ([60, 75, 90, 95], [70, 90, 95, 97], [3.0, 2.0, 1.0]),  # as a trial 2 does not, anew it does
        ([79, 60, 75, 90], [85, 70, 70, 95], [4.0, 1.0]),  # the most accurate of those that are faster
        ([60, 85, 95, 90], [70, 70, 70, 85], [2.0, 3.0, 4.0]),  # worse than as trials: slower ones, until one keeps it
        ([60, 65, 70, 75], [70, 70, 85, 85], [4.0, 3.0, 2.0, 1.0]),  # none does as a trial: from the most accurate one on
    ],
)
def test_the_fastest_one_is_looked_for_among_those_rounded_anew(trials: list[float], anew: list[float], rounded: list[float]) -> None:
    after = {float(i + 1): accuracy for i, accuracy in enumerate(anew)}

    class Told(Anew):
        def round(self, trial: Trial) -> bool:
            self.found.append(replace(trial, accuracy=after[trial.ms]))
            return self.keeps(self.found[-1])

    nothing: Any = None
    told = Told(nothing, nothing, {}, 100.0, lambda trial: trial.accuracy >= 80, False, {})
    found = told.from_fastest([_trial(float(i + 1), accuracy) for i, accuracy in enumerate(trials)])
    assert [trial.ms for trial in found] == rounded


def test_between_the_fastest_one_and_what_is_not_accurate_enough() -> None:
    """What is accurate from 9.3 ms on is found by halves: 12, 10, 9, 9.5, 9.25."""

    class Told(Anew):
        def round(self, trial: Trial) -> bool:
            self.found.append(trial)
            return self.keeps(trial)

    def tried(assignment: Any, _: str) -> Trial:
        return replace(_trial(assignment["layer"], 90 if assignment["layer"] >= 9.3 else 70), assignment=assignment)

    nothing: Any = None
    told = Told(nothing, nothing, {}, 100.0, lambda trial: trial.accuracy >= 80, False, {}, [tried({"layer": ms}, "") for ms in (8, 16)])
    search: Any = SimpleNamespace(
        _keeps=told.keeps, _predicted=lambda assignment: assignment["layer"], _solved=lambda _, ms=8: {"layer": ms}, _tried=tried
    )
    _Search._between(search, told)
    assert [trial.ms for trial in told.found] == [8, 16, 12, 10, 9, 9.5, 9.25]


def test_what_is_chosen_keeps_the_budget_when_it_is_timed_again() -> None:
    """As trials 1 and 2 keep 10 ms; by more rounds 1 takes 4 % too long, and 2 does not. Where both do, a third is rounded anew."""

    def best(times: dict[str, float]) -> Trial:
        tried = [_trial(9.9, accuracy) for accuracy in (93, 92, 91)]
        tried = [replace(trial, assignment={"layer": Bits(8, i + 1)}) for i, trial in enumerate(tried)]
        final = [replace(trial) for trial in tried[:2]]
        outcome = SimpleNamespace(limit=10.0, nearest=lambda trials: f"{len(trials)} are too slow")
        search: Any = SimpleNamespace(budget=Budget(max_ms=10), outcome=outcome, alone=True, judge=None, anew=SimpleNamespace())

        def time(trials: Sequence[Trial], more: int) -> None:
            assert more > 1
            for trial in trials:
                trial.ms = times[str(trial.assignment["layer"])]

        search._time, search.anew.round = time, lambda trial: final.append(replace(trial))
        search._within = lambda *given: _Search._within(search, *given)
        search._keeps = lambda trial, slack=0.02: trial.ms <= 10 * (1 + slack)
        search._rank, search._ranked = lambda trial: -trial.accuracy, lambda trials: trials
        return _Search._best(search, final, tried)

    assert best({"W8A1": 10.4, "W8A2": 9.9, "W8A3": 9.9}).accuracy == 92
    assert best({"W8A1": 10.1, "W8A2": 10.0, "W8A3": 9.9}).accuracy == 92  # what keeps it closely comes first
    assert best({"W8A1": 10.1, "W8A2": 10.4, "W8A3": 9.9}).accuracy == 93
    assert best({"W8A1": 10.4, "W8A2": 10.4, "W8A3": 9.9}).accuracy == 91
    with pytest.raises(ValueError, match="3 are too slow"):
        best({"W8A1": 10.4, "W8A2": 10.4, "W8A3": 10.4})


def _only_floats() -> Any:
    first = iter([1000.0])
    return lambda _: next(first, 0.0)


def test_loading_with_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    # What takes time, and what other tests are about.
    set_defaults(monkeypatch, quantize, rounding="nearest", bias_correction=False)
    set_defaults(monkeypatch, auto, pairs=PAIRS)
    loaded = ulp.load(chain(), bits="auto", calibrate=images(8), max_bytes=20_000, progress=False)
    assert loaded.nbytes <= 20_000
    assert isinstance(loaded.quantized.choice, Choice)
    assert "max_bytes=20000" in str(loaded.quantized.choice)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "needs a budget: max_ms="),
        ({"max_ms": 0}, "max_ms=0: expected a positive number"),
        ({"max_drop": -1}, "max_drop=-1: expected a number of at least 0"),
        ({"max_ms": float("nan")}, "max_ms=nan"),
        ({"max_ms": "4 ms"}, "max_ms='4 ms': expected milliseconds, a pair such as 'W4A4'"),
        ({"max_ms": "0 W4A4"}, "max_ms='0 W4A4'"),
        ({"max_ms": "W7A7"}, "expected a pair that is tried, one of W8A8, W6A8"),
        ({"max_ms": 1, "first_last_bits": None}, "first_last_bits=None with bits"),
        ({"max_bytes": "2 MB"}, "max_bytes='2 MB': expected a number"),
        ({"max_ms": 1, "metric": 3}, "metric=3: expected a function"),
        ({"max_ms": 1, "metric": lambda _: "good"}, "metric gave 'good': expected a finite number"),
        ({"max_ms": 1, "target": "z80"}, "instruction set 'z80' is unknown"),
        ({"max_bytes": 3}, "max_bytes=3 cannot be kept: the nearest choice"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        quantize(chain(), bits="auto", calibrate=images(8), progress=False, rounding="nearest", bias_correction=False, **asked)
    assert message in str(error.value)


def test_a_budget_without_auto_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_ms= with bits=4: it belongs to bits=\"auto\""):
        ulp.load(chain(), bits=4, calibrate=images(16), max_ms=1, progress=False)
    with pytest.raises(ValueError, match="max_drop= without bits="):
        ulp.load(chain(), max_drop=1)


# What is shown.


def points() -> list[Point]:
    return [
        Point(label, {}, ms, accuracy, 0.0, 1)
        for label, ms, accuracy in (("W8A8", 4, 99), ("W4A4", 2, 95), ("auto", 2.5, 98), ("W6A6", 3, 97))
    ]


def test_the_front_holds_what_nothing_beats() -> None:
    choice = Choice([], points()[2], points(), 99.5, "right, %", {"max_ms": 2.6}, "CPU time of one thread")
    assert [point.label for point in choice.front] == ["W4A4", "auto", "W8A8"]


def test_the_plot_shows_all_points_with_labelled_axes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    choice = Choice([], points()[2], points(), 99.5, "right, %", {"max_ms": 2.6}, "CPU time of one thread")
    axes = choice.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("milliseconds per call (CPU time of one thread)", "right, %")
    assert sum(len(scatter.get_offsets()) for scatter in axes.collections) == len(points()) + 1
