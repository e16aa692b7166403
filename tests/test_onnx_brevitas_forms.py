"""Every way in which Brevitas parametrizes quantizers, exported by it: what `ulp.load` gives is what Brevitas computes."""

from __future__ import annotations

import importlib
import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from test_onnx_brevitas import logits_of

import ulp

pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore")  # what torch and Brevitas say of each other
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("brevitas")
    import torch
    from brevitas import nn as qnn
    from torch import nn

    from bench.subjects.brevitas_networks import export

ACTIVATIONS = (
    *("Int8ActPerTensorFloat", "Int8ActPerTensorFloatMSE", "Int8ActPerTensorFixedPoint"),
    *("Int8ActPerTensorFixedPointMSE", "Uint8ActPerTensorFloat", "Uint8ActPerTensorFloatMSE", "Uint8ActPerTensorFixedPoint"),
    *("ShiftedUint8ActPerTensorFloat", "ShiftedUint8ActPerTensorFixedPoint", "ShiftedUint8ActPerTensorFloatMSE"),
    *("SignedBinaryActPerTensorConst", "SignedTernaryActPerTensorConst"),
)
WEIGHTS = (
    *("Int8WeightPerTensorFloat", "Int8WeightPerChannelFloat", "Int8WeightPerTensorFixedPoint", "Int8WeightPerChannelFixedPointMSE"),
    *("Int8WeightPerTensorFloatMSE", "Int8WeightPerChannelFloatMSE", "Int8WeightNormL2PerChannelFixedPoint"),
    *("Int8WeightPerChannelFloatDecoupled", "ShiftedUint8WeightPerTensorFloat", "ShiftedUint8WeightPerChannelFloat"),
    *("ShiftedUint8WeightPerChannelFloatMSE", "SignedBinaryWeightPerTensorConst", "SignedTernaryWeightPerTensorConst"),
)


def quantizer(name: str) -> Any:
    return getattr(importlib.import_module("brevitas.quant"), name)


def options(name: str, bits: int, kind: str) -> dict[str, Any]:
    """Arguments of a layer for a quantizer of this name. kind: "act" or "weight"."""
    given: dict[str, Any] = {f"{kind}_quant": quantizer(name)}
    if "Binary" in name or "Ternary" in name:
        given["scaling_const" if kind == "act" else "weight_scaling_const"] = 0.25
        return given
    return given | {"bit_width" if kind == "act" else "weight_bit_width": bits}


def network(act: str, weight: str, bits: int) -> Any:
    """Two layers with the quantizers of activations before, between and behind them; ranges from one pass in training."""
    torch.manual_seed(0)
    groups = options(weight, bits, "weight")
    made = nn.Sequential(
        qnn.QuantIdentity(return_quant_tensor=True, **options("Int8ActPerTensorFixedPoint", 8, "act")),
        qnn.QuantConv2d(3, 8, 3, padding=1, bias=False, **groups),
        nn.BatchNorm2d(8),
        qnn.QuantIdentity(return_quant_tensor=True, **options(act, bits, "act")),
        qnn.QuantConv2d(8, 6, 3, bias=True, **groups),
        qnn.QuantIdentity(return_quant_tensor=False, **options(act, bits, "act")),
    )
    for _ in range(3):
        made(torch.randn(4, 3, 10, 10))
    return made.eval()


def codes_that_differ(made: Any, model: bytes, mode: str = "requantize") -> float:
    """The share of values at which the loaded model and Brevitas differ."""
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 3, 10, 10)).astype(np.float32))
    loaded = ulp.load(model, tune=False, mode=mode)
    theirs = logits_of(made, x)
    ours = loaded(x.numpy())
    return float((np.abs(ours - theirs) > 1e-4 * np.abs(theirs).max()).mean())


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_quantizers_of_activations(act: str) -> None:
    """A code of thousands may fall to its neighbour, where float32 rounds: that is a tie, not a form that is not understood."""
    for bits in (2, 5, 8):
        made = network(act, "Int8WeightPerChannelFloat", bits)
        model = export(made, "qonnx", torch.randn(1, 3, 10, 10))
        loaded = ulp.load(model, tune=False)
        convolutions = [row for row in loaded.layers if row.op_type == "Conv"]
        assert all(row.integer for row in convolutions), f"{bits} bits\n{loaded}"
        assert codes_that_differ(made, model) <= 0.003, f"{bits} bits\n{loaded}"


@pytest.mark.parametrize("weight", WEIGHTS)
def test_quantizers_of_weights(weight: str) -> None:
    for bits in (3, 8):
        made = network("Uint8ActPerTensorFloat", weight, bits)
        model = export(made, "qonnx", torch.randn(1, 3, 10, 10))
        loaded = ulp.load(model, tune=False)
        convolutions = [row for row in loaded.layers if row.op_type == "Conv"]
        if bits == 8 and "ShiftedUint8WeightPerChannel" in weight:  # less a zero point of their own in each channel, 9 bits: floats
            assert not any(row.integer for row in convolutions), loaded
        else:
            assert all(row.integer for row in convolutions), f"{bits} bits\n{loaded}"
        assert codes_that_differ(made, model) <= 0.003, f"{bits} bits\n{loaded}"


@pytest.mark.parametrize("rounding", ["round", "floor", "ceil", "round_to_zero", "dpu"])
def test_roundings_and_narrow_ranges(rounding: str) -> None:
    for narrow, bits in itertools.product((False, True), (3, 4)):
        torch.manual_seed(0)
        given = {"act_quant": quantizer("Int8ActPerTensorFixedPoint"), "bit_width": bits, "narrow_range": narrow}
        made = nn.Sequential(
            qnn.QuantIdentity(return_quant_tensor=True, **options("Int8ActPerTensorFixedPoint", 6, "act")),
            qnn.QuantConv2d(3, 8, 1, bias=False, **options("Int8WeightPerTensorFixedPoint", 4, "weight")),
            qnn.QuantIdentity(return_quant_tensor=False, float_to_int_impl_type=rounding, **given),
        )
        for _ in range(3):
            made(torch.randn(4, 3, 10, 10))
        model = export(made.eval(), "qonnx", torch.randn(1, 3, 10, 10))
        loaded = ulp.load(model, tune=False)
        assert loaded.integer, loaded
        assert codes_that_differ(made, model) == 0, f"narrow={narrow}, {bits} bits"  # powers of two: nothing is rounded twice


def test_scales_per_channel_in_front_of_depthwise_layers() -> None:
    torch.manual_seed(0)
    made = nn.Sequential(
        qnn.QuantIdentity(return_quant_tensor=True, **options("Int8ActPerTensorFloat", 8, "act")),
        qnn.QuantConv2d(3, 8, 1, bias=False, **options("Int8WeightPerChannelFloat", 4, "weight")),
        nn.BatchNorm2d(8),
        qnn.QuantReLU(
            act_quant=quantizer("Uint8ActPerTensorFloat"),
            bit_width=4,
            scaling_per_output_channel=True,
            per_channel_broadcastable_shape=(1, 8, 1, 1),
            scaling_stats_permute_dims=(1, 0, 2, 3),
            return_quant_tensor=True,
        ),
        qnn.QuantConv2d(8, 8, 3, groups=8, bias=False, **options("Int8WeightPerChannelFloat", 4, "weight")),
        qnn.QuantReLU(return_quant_tensor=False, **options("Uint8ActPerTensorFloat", 4, "act")),
    )
    for _ in range(3):
        made(torch.randn(4, 3, 10, 10))
    model = export(made.eval(), "qonnx", torch.randn(1, 3, 10, 10))
    assert ulp.load(model, tune=False).integer, ulp.load(model)
    assert codes_that_differ(made, model) <= 0.003
