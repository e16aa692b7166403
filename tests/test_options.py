"""Options that cannot be honoured are refused: every keyword of the functions that take models, with a value of no sense."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ulp
from ulp._options import OPTIONS


def network() -> Any:
    made = ulp.nn.Sequential(ulp.nn.Linear(4, 3, bits=4, act_bits=4))
    ulp.nn.calibrate(made, [np.ones((2, 4), np.float32)])
    return made


def model() -> Any:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx_models import Writer

    w = Writer((4,))
    return w.model(w.add("Gemm", "x", w.weights(3, 4), transB=1))


X = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
QUANTIZE: dict[str, Any] = {"bits": 4, "calibrate": X}
CALLS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "load": (ulp.load, lambda **options: ulp.load(model(), **options)),
    "load and quantize": (ulp.load, lambda **options: ulp.load(model(), **QUANTIZE | options)),
    "compile": (ulp.compile, lambda **options: ulp.compile(model(), X, **QUANTIZE | options)),
    "compile a network of ulp.nn": (ulp.compile, lambda **options: ulp.compile(network(), X, **options)),
    "nn.compile": (ulp.nn.compile, lambda **options: ulp.nn.compile(network(), X, **options)),
    "nn.calibrate": (ulp.nn.calibrate, lambda **options: ulp.nn.calibrate(network(), [X], **options)),
    "quantize": (ulp.quantize.quantize, lambda **options: ulp.quantize.quantize(model(), **QUANTIZE | options)),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_of_no_sense_are_refused(name: str) -> None:
    function, call = CALLS[name]
    keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert len(keywords) > 1
    for keyword in keywords:
        for value in (object(), "x", -1, [], 2.5):
            with pytest.raises((TypeError, ValueError), match=keyword):
                call(**{keyword: value})


@pytest.mark.parametrize("option", [name for name, check in OPTIONS.items() if check is OPTIONS["strict"]])
@pytest.mark.parametrize("value", [0, 1, None, "False", np.array([True])])
def test_a_switch_is_a_bool(option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{option}=.*: expected True or False"):
        OPTIONS[option](option, value)


def test_an_option_of_numpy_counts_as_one_of_python() -> None:
    options: dict[str, Any] = {"tune": np.bool_(False), "group": np.int64(2), "progress": np.bool_(False)}
    made = ulp.nn.compile(network(), X, **options)
    assert made.group == 2


@pytest.mark.parametrize("option", ["dynamic", "batch_first", "bidirectional"])
def test_switches_of_recurrent_layers(option: str) -> None:
    kinds: tuple[Any, ...] = (ulp.nn.LSTM, ulp.nn.GRU)
    for layer in kinds:
        with pytest.raises(TypeError, match=f"{option}='yes': expected True or False"):
            layer(3, 4, bits=4, act_bits=8, **{option: "yes"})
