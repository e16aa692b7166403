"""Activations as tables of codes: alone, in networks, in state dicts, against the definitions in float64."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import Array

from ulp import nn

F32 = np.float32


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


ACTIVATIONS: dict[str, tuple[Callable[[], Any], Callable[[Array], Array]]] = {
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    "SiLU": (nn.SiLU, lambda x: x * sigmoid(x)),
    "GELU": (nn.GELU, lambda x: x / 2 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x.ravel()]).reshape(x.shape))),
    "GELU tanh": (lambda: nn.GELU("tanh"), lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "Sigmoid": (nn.Sigmoid, sigmoid),
    "Tanh": (nn.Tanh, np.tanh),
    "ELU": (lambda: nn.ELU(0.7), lambda x: np.where(x > 0, x, 0.7 * (np.exp(x) - 1))),
    "Mish": (nn.Mish, lambda x: x * np.tanh(np.log(1 + np.exp(x)))),
    "Hardswish": (nn.Hardswish, lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "Hardsigmoid": (nn.Hardsigmoid, lambda x: np.clip(x + 3, 0, 6) / 6),
    "PReLU": (nn.PReLU, lambda x: np.where(x > 0, x, 0.25 * x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_activations_are_what_they_are_defined_as(name: str, bits: int) -> None:
    make, function = ACTIVATIONS[name]
    rng = np.random.default_rng(bits)
    for shape in ((3, 5, 6, 7), (3, 37), (3, 5, 9), (4,)):
        layer = make()
        layer.act_bits = bits
        x = (rng.standard_normal(shape) * 3).astype(F32)
        layer.quantizer = nn.Quantizer(bits, 0.25, 2 ** (bits - 1))
        want = function(layer.quantizer.round_trip(x).astype(np.float64))
        result = layer(x)
        assert result.dtype == F32
        np.testing.assert_allclose(result, want, rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_compiled_networks_give_the_layers_results(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 9, 8)).astype(F32)
    for last in (nn.Conv2d(6, 5, 1, bits=4), nn.Identity()):
        network = nn.Sequential(nn.Conv2d(3, 6, 3, bits=4), ACTIVATIONS[name][0](), nn.MaxPool2d(1), last).calibrate([x], progress=False)
        compiled = nn.compile(network, x, tune=False)
        np.testing.assert_array_equal(compiled(x), network(x))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(compiled))(x), network(x))
        # The table is part of the convolution's step, but where its results are floats.
        assert ("lookup" in {row.step for row in compiled.profile(x)}) == isinstance(last, nn.Identity)


def test_a_sum_that_begins_with_an_activation_or_a_relu() -> None:
    class Block(nn.Module):
        def __init__(self, activation: Any) -> None:
            self.conv = nn.Conv2d(3, 3, 3, padding=1, bits=4)
            self.activation = activation
            self.add = nn.Add()
            self.last = nn.Conv2d(3, 4, 1, bits=4)

        def forward(self, x: Any) -> Any:
            return self.last(self.add(self.activation(self.conv(x)), x))

    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(F32)
    for activation in (nn.SiLU(), nn.ReLU()):
        network = Block(activation).calibrate([x], progress=False)
        np.testing.assert_array_equal(nn.compile(network, x, tune=False)(x), network(x))


def test_prelu_has_a_weight_for_each_channel() -> None:
    layer = nn.PReLU(5)
    layer.load_state_dict({"weight": np.linspace(-1, 1, 5, dtype=F32)})
    layer.quantizer = nn.Quantizer(8, 0.25, 128)
    assert layer.state_dict().keys() == {"weight", "act_scale", "act_zero"}
    for sides in ((), (7,), (4, 6)):
        x = (np.random.default_rng(0).standard_normal((2, 5, *sides)) * 3).astype(F32)
        rounded = layer.quantizer.round_trip(x)
        slope = layer.weight.reshape(5, *(1,) * len(sides))
        np.testing.assert_allclose(layer(x), np.where(rounded > 0, rounded, rounded * slope), rtol=1e-6)
    with pytest.raises(nn.LayerError, match="Found parameter numbers = 5 and channel size = 4"):
        layer(np.ones((2, 4), F32))
    with pytest.raises(nn.LayerError, match="expected \\[5\\]"):
        layer.weight = np.ones(4, F32)
    with pytest.raises(ValueError, match=r"writeable|read-only"):
        layer.weight[0] = 1


def test_dynamic_and_calibrated() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5)).astype(F32)
    np.testing.assert_allclose(nn.Tanh(dynamic=True)(x), np.tanh(x), atol=0.02)
    with pytest.raises(nn.LayerError, match="is not calibrated"):
        nn.Tanh()(x)
    np.testing.assert_allclose(nn.Tanh().calibrate([x], progress=False)(x), np.tanh(x), atol=0.05)
    with pytest.raises(ValueError, match="a NaN or an infinity"):
        nn.Tanh(dynamic=True)(np.full((1, 1), np.nan, F32))


def test_arguments() -> None:
    assert repr(nn.LeakyReLU(0.2)) == "LeakyReLU(negative_slope=0.2, act_bits=8)"
    assert repr(nn.Tanh(act_bits=4, act_signed=True)) == "Tanh(act_bits=4, signed)"
    with pytest.raises(ValueError, match="approximate='erf': expected 'none' or 'tanh'"):
        nn.GELU("erf")
    with pytest.raises(ValueError, match="negative_slope=nan: expected a finite number"):
        nn.LeakyReLU(math.nan)
    with pytest.raises(ValueError, match="num_parameters"):
        nn.PReLU(0)
    steep = nn.ELU(1e38)
    steep.quantizer = nn.Quantizer(8, 2.0, 255)
    steep.alpha = 1e300
    with pytest.raises(nn.LayerError, match="the result leaves float32"):
        steep(np.ones((1, 1), F32))


class Branches(nn.Module):
    """An activation's codes that two layers read, one of them through further activations: a table of a table that no epilogue makes."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 1, bits=4) for _ in range(3))
        self.p, self.q, self.r, self.add = nn.GELU(), nn.Tanh(), nn.SiLU(), nn.Add()

    def forward(self, x: Array) -> Any:
        x = self.p(self.a(x))
        if self.form == "two tables":
            return self.b(x), self.c(self.q(x))
        if self.form == "three tables":
            return self.b(x), self.c(self.r(self.q(x)))
        if self.form == "sum of a layer":
            return self.add(self.b(x), self.q(x))
        return self.c(self.add(self.q(x), self.r(x)))


@pytest.mark.parametrize("form", ["two tables", "three tables", "sum of a layer", "sum of tables"])
@pytest.mark.parametrize("bits", [2, 4])
def test_a_table_of_a_table_whose_source_others_read(form: str, bits: int) -> None:
    network = Branches(form)
    for layer in (network.a, network.b, network.c):
        layer.a_bits = bits
    x = np.random.default_rng(3).standard_normal((2, 8, 5, 6)).astype(np.float32)
    network.calibrate([x], progress=False)
    expected = network(x)
    result = nn.compile(network, x, tune=False, progress=False)(x)
    for one, other in zip(expected, result, strict=True):
        np.testing.assert_array_equal(one, other)
