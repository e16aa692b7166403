"""`python -m ulp run | inspect | bench`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from interpreter import run_python

pytest.importorskip("onnx", reason="the loader of models needs the package onnx")

import onnx_mutate  # only where there is onnx

import ulp
from ulp.__main__ import main


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_mutate.qdq_seed().SerializeToString())
    return str(path)


def test_run(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for number, source in enumerate((f"{tmp_path}/x.npy", f"x={tmp_path}/x.npy", f"{tmp_path}/x.npz")):
        target = tmp_path / f"y{number}.npy"
        assert main(["run", model, "--input", source, "--output", str(target)]) == 0
        assert (np.load(target) == ulp.load(model, tune=False)(x)).all()
        header, row = capsys.readouterr().out.splitlines()
        assert header.split() == ["output", "dtype", "shape", "min", "mean", "max"]
        assert row.split()[:3] == ["y", "float32", "3x4"]
    assert main(["run", model, "--random", "--batch", "5", "--output", str(tmp_path / "y.npz")]) == 0
    assert np.load(tmp_path / "y.npz")["y"].shape == (5, 4)


def test_profile(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", model, "--random", "--profile", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "GMAC/s" in out
    assert "Softmax" in out


def test_inspect(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", model]) == 0
    out = capsys.readouterr().out
    conv = next(line for line in out.splitlines() if " Conv " in line)
    assert "integers" in conv
    assert "W4A8" in conv
    softmax = next(line for line in out.splitlines() if " Softmax " in line)
    assert "floats" in softmax
    assert main(["inspect", "--strict", model]) == 2
    assert "Softmax" in capsys.readouterr().err


def test_bench(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", model, "--batches", "1", "4", "--rounds", "2"]) == 0
    head, titles, first, second, *_ = capsys.readouterr().out.splitlines()
    assert "medians of 2 rounds" in head
    assert titles.startswith("batch  ulp, ms")
    assert [first.split()[0], second.split()[0]] == ["1", "4"]


def test_bench_of_a_model_that_onnxruntime_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="it is what refuses")
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_mutate.qonnx_seed().SerializeToString())
    assert main(["bench", str(path), "--batches", "1", "--rounds", "1"]) == 0
    assert "onnxruntime does not run this model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nothing.onnx"], "nothing.onnx"),
        (["run", "MODEL", "--input", "nothing.npy"], "nothing.npy"),
        (["run", "MODEL", "--input", "z=X"], "'z' is no input"),
        (["run", "MODEL", "--input", "X", "--input", "X"], "each has an array already"),
        (["run", "MODEL", "--input", "SMALL"], "expected"),
        (["run", "MODEL", "--random", "--output", "y.txt"], "expected a name that ends in .npz, or .npy"),
        (["run", "MODEL", "--input", "PICKLE"], "allow_pickle"),
        (["inspect", "X"], "no ONNX file|damaged"),
        (["inspect", "MODEL", "--shape", "q=1,2,4,4"], "'q', which is no input"),
    ],
)
def test_errors(arguments: list[str], words: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 2, 4, 4), np.float32))
    np.save(tmp_path / "small.npy", np.zeros((1, 2), np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{}], object))
    files = {"MODEL": model, "X": f"{tmp_path}/x.npy", "SMALL": f"{tmp_path}/small.npy", "PICKLE": f"{tmp_path}/pickle.npy"}
    for word, path in files.items():
        arguments = [argument.replace(word, path) for argument in arguments]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"ulp {arguments[0]}: ")
    assert any(word in err for word in words.split("|"))


def test_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from ulp import _core, _measure

    monkeypatch.setenv("ULP_TUNE_CACHE", str(tmp_path / "tune.json"))
    monkeypatch.setattr(_measure, "_FEW_SIDE", 32)
    monkeypatch.setattr(_measure, "_SIDE", 32)
    monkeypatch.setattr(_measure, "_SAMPLE_NS", 1)
    monkeypatch.setattr(_measure, "_ROUNDS", 1)
    try:
        assert main(["tune"]) == 0
        out = capsys.readouterr().out
        assert "kernels and bit pairs measured here" in out
        assert [line.split()[0] for line in out.splitlines() if line.startswith("W")] == [f"W{b}A{b}" for b in range(1, 9)]
        assert str(tmp_path / "tune.json") in out
        assert ulp.explain(8, 64, 64, bits=3).candidates[0].basis == "measured here"
        assert main(["tune", "--forget"]) == 0
        assert ulp.explain(8, 64, 64, bits=3).candidates[0].basis != "measured here"
    finally:
        _core.forget_tuned()


def test_wrong_use() -> None:
    for arguments in ([], ["run", "m.onnx"], ["inspect", "m.onnx", "--shape", "3,4"], ["bench", "m.onnx", "--rounds", "0"]):
        with pytest.raises(SystemExit):
            main(arguments)


def test_from_a_shell(model: str) -> None:
    done = run_python("import runpy, sys; sys.argv = ['ulp', 'inspect', " + repr(model) + "]; runpy.run_module('ulp', run_name='__main__')")
    assert done.returncode == 0, done.stderr
    assert "OnnxNetwork: x float32" in done.stdout


def test_without_onnx(model: str) -> None:
    done = run_python(
        f"import sys; sys.modules['onnx'] = None; from ulp.__main__ import main; sys.exit(main(['inspect', {model!r}]))", "-W", "error"
    )
    assert done.returncode == 2
    assert 'pip install "ulp-gemm[onnx]"' in done.stderr
