"""The demo from end to end in its short form, and its parts against plain definitions."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from interpreter import DIRECTORY

import ulp
from ulp import _demo_model as model
from ulp import demo


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error:::ulp", "-m", "ulp.demo", *arguments]
    return subprocess.run(command, cwd=DIRECTORY, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def quick() -> subprocess.CompletedProcess[str]:
    return run_demo("--quick", "--seed", "3")


def cells(output: str, name: str) -> list[str]:
    """The first table row that starts with `name`."""
    row = re.search(rf"^ +{name} {{2,}}\d.*$", output, re.MULTILINE)
    assert row, output
    return re.split(r" {2,}", row[0].strip())


def test_all_checks_hold(quick: subprocess.CompletedProcess[str]) -> None:
    assert quick.returncode == 0, quick.stdout + quick.stderr
    assert "All checks hold." in quick.stdout
    assert len(re.findall(r"^  ok ", quick.stdout, re.MULTILINE)) == 3 * len(demo.PRECISIONS) + len(demo.QUICK.layers)


def test_table_tells_accuracy_and_memory(quick: subprocess.CompletedProcess[str]) -> None:
    wrong = {}
    for name in ("float32", "W4A4", "W3A3", "W2A2"):
        _, accuracy, mistakes, weights, *_ = cells(quick.stdout, name)
        wrong[name] = int(mistakes)
        assert accuracy == f"{100 * (1 - wrong[name] / 540):.1f} %"
        # 10 columns take the room of 16 in the dense layout.
        bits = 32 if name == "float32" else int(name[1])
        columns = 10 if name == "float32" else 16
        assert weights == f"{(64 * 96 + 96 * 64 + 64 * columns) * bits / 8 / 1024:.1f} KiB"
    assert wrong["float32"] < 40
    assert wrong["W3A3"] < 55


def test_output_is_plain_and_free_of_progress_bars(quick: subprocess.CompletedProcess[str]) -> None:
    assert quick.stdout.isascii()
    assert quick.stderr == ""
    assert max(map(len, quick.stdout.splitlines())) <= 120


@pytest.mark.parametrize("arguments", [("--threads", "0"), ("--threads", "x"), ("--seed", "-1"), ("--fast",)], ids=" ".join)
def test_wrong_use(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert "usage: python -m ulp.demo" in capsys.readouterr().err


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert demo.main(["--quick"]) == 2
    assert "ulp.demo needs sklearn" in capsys.readouterr().err


def test_failed_check_fails_the_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = demo.reference

    def off_by_one(layer: model.IntegerLayer, a: demo.Array) -> demo.Array:
        result = right(layer, a)
        result.flat[-1] += 1
        return result

    monkeypatch.setattr(demo, "reference", off_by_one)
    assert demo.run(0, demo.Effort(1, 1, ((2, 8, 8),)), 1) == 1
    output = capsys.readouterr().out
    assert re.search(r"FAILED +W3A3: all activations", output)
    assert "checks FAILED." in output


def test_digits_are_split_by_seed() -> None:
    first, again, other = model.load_digits(0), model.load_digits(0), model.load_digits(1)
    assert len(first.train_labels) + len(first.test_labels) == 1797
    assert first.train_pixels.dtype == np.uint8
    assert first.train_pixels.max() == model.BRIGHTEST
    assert np.array_equal(first.test_pixels, again.test_pixels)
    assert not np.array_equal(first.test_pixels, other.test_pixels)


@pytest.mark.parametrize("precision", demo.PRECISIONS, ids=str)
def test_pixels_round_to_nearest(precision: model.Precision) -> None:
    pixels = np.arange(model.BRIGHTEST + 1, dtype=np.uint8)
    exact = pixels / model.BRIGHTEST * precision.largest_activation
    found = precision.activations_of(pixels)
    assert found.dtype == np.uint8
    assert np.abs(found - exact).max() <= 0.5
    assert (found[0], found[-1]) == (0, precision.largest_activation)


def cross_entropy(logits: demo.Array, labels: demo.Array) -> float:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]))


def test_float_gradients_are_those_of_the_loss() -> None:
    digits = model.load_digits(0)
    network = model.FloatNetwork(np.random.default_rng(0))
    pixels, labels = digits.train_pixels[:50], digits.train_labels[:50]
    rng = np.random.default_rng(1)
    for parameter, gradient in zip(network.parameters(), network.gradients(pixels, labels), strict=True):
        assert gradient.shape == parameter.shape
        direction = rng.standard_normal(parameter.shape).astype(np.float32)
        before = parameter.copy()
        losses = []
        for sign in (1, -1):
            parameter[...] = before + np.float32(sign * 1e-3) * direction
            losses.append(cross_entropy(network.logits(pixels), labels))
        parameter[...] = before
        assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(float((gradient * direction).sum()), rel=0.05, abs=2e-3)


@pytest.mark.parametrize("precision", demo.PRECISIONS, ids=str)
def test_quantised_network_learns_and_runs_the_same_in_ulp(precision: model.Precision) -> None:
    digits = model.load_digits(2)
    start = model.FloatNetwork(np.random.default_rng(2))
    model.train(start, digits, 3, np.random.default_rng(2), "float32")
    network = model.QuantizedNetwork(start, precision, digits.train_pixels)
    before = cross_entropy(network.logits(digits.train_pixels), digits.train_labels)
    model.train(network, digits, 5, np.random.default_rng(2), str(precision))
    assert cross_entropy(network.logits(digits.train_pixels), digits.train_labels) < before / 2
    low, high = precision.weight_interval
    for layer in network.layers():
        assert layer.weights.dtype == np.int8
        assert low <= layer.weights.min() <= layer.weights.max() <= high
    inference = demo.UlpNetwork(network)
    assert inference.agrees(digits.test_pixels)
    assert np.array_equal(inference(digits.test_pixels), network.logits(digits.test_pixels))


def test_measure_alternates_and_compares_within_rounds() -> None:
    order: list[str] = []
    timings = demo.measure({"slow": lambda: sum(range(40_000)), "fast": lambda: order.append("fast")}, 5, 1, "timing")
    assert timings["slow"].speedup == 1.0
    assert timings["fast"].speedup > 10
    assert order


def test_thread_limit_is_put_back() -> None:
    ulp.set_num_threads(2)
    with demo.thread_limit(1):
        assert ulp.get_num_threads() == 1
    assert ulp.get_num_threads() == 2


def test_units() -> None:
    assert demo.size(1536) == "1.5 KiB"
    assert demo.size(64 * 2**20) == "64.0 MiB"
    assert demo.duration(105e-9) == "105 ns"
    assert demo.duration(12.34e-6) == "12.3 us"
    assert demo.duration(2.5e-3) == "2.50 ms"
    assert (demo.ratio(0.25), demo.ratio(0.999), demo.ratio(3.14)) == ("0.25x", "1.0x", "3.1x")
