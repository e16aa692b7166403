"""Random models with a Resize: nearest and linear, by scales and by sizes, of codes and of integers, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from test_onnx_integers import Quantized  # noqa: E402  # what is not installed skips the file

WAYS = ["half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


class Resized:
    """One random model. between: the floats that a quantizer behind the Resize reads, and its scale, where there is one."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.channels, *self.image = int(rng.integers(1, 6)), *(int(side) for side in rng.integers(1, 9, 2))
        self.opset = int(rng.choice([10, 11, 13, 18, 19, 21]))
        self.w = w = Quantized((self.channels, *self.image), seed, opset=self.opset)
        self.between: tuple[str, float] | None = None
        self.batch = 2
        y = w.add("Conv", w.codes("x", 0.25, 120), w.integers(self.channels, self.channels, 1, 1)) if rng.integers(2) else "x"
        self.result = self.behind(self.resize(self.quantize(y)))

    def quantize(self, x: str) -> str:
        """To codes of 2 to 8 bits, which are left as integers if nothing dequantizes them before the Resize."""
        w, rng = self.w, self.rng
        signed, bits = bool(rng.integers(2)), int(rng.integers(2, 9)) if self.opset >= 12 else 8
        low, dtype = (-128 if signed else 0), (np.int8 if signed else np.uint8)
        self.scale, self.zero = float(rng.choice([0.25, 0.0371])), dtype(low + rng.integers(2**bits))
        self.parameters = w.constant(np.float32(self.scale)), w.constant(self.zero)
        q = w.add("QuantizeLinear", x, *self.parameters)
        if bits < 8:
            q = w.add("Clip", q, w.constant(dtype(low)), w.constant(dtype(low + 2**bits - 1)))
        self.integers = not rng.integers(3)
        return q if self.integers else w.add("DequantizeLinear", q, *self.parameters)

    def resize(self, x: str) -> str:
        w, rng = self.w, self.rng
        whole = bool(rng.integers(4))
        factors = rng.integers(1, 6, 2) if whole else rng.choice([0.5, 1.5, 0.7, 2.3, 1 / 3, 0.6, 1.25, 2.5, 3.7], 2)
        options: dict[str, Any] = {"mode": str(rng.choice(["nearest", "linear"]))}
        scales = w.constant(np.array([1, 1, *factors], np.float32))
        if self.opset < 11:
            return w.add("Resize", x, scales, **options)
        ways = WAYS + ["half_pixel_symmetric"] * (self.opset >= 19) + ["tf_half_pixel_for_nn"] * (self.opset < 13)
        options["coordinate_transformation_mode"] = str(rng.choice(ways))
        if options["mode"] == "nearest":
            options["nearest_mode"] = str(rng.choice(NEAREST))
        none = w.constant(np.zeros(0, np.float32)) if self.opset < 13 else ""
        if rng.integers(2):
            return w.add("Resize", x, none, scales, **options)
        self.batch = 1
        sizes = [max(1, int(side * factor)) for side, factor in zip(self.image, factors, strict=True)]
        return w.add("Resize", x, none, none, w.shape_of(1, self.channels, *sizes), **options)

    def behind(self, x: str) -> str:
        w, rng = self.w, self.rng
        if self.integers:
            return w.add("DequantizeLinear", x, *self.parameters)
        if rng.integers(2):
            scale = float(rng.choice([self.scale, 2.0**-4]))
            self.between = x, scale
            x = w.codes(x, scale)
        return w.add("Conv", x, w.integers(3, self.channels, 1, 1)) if rng.integers(2) else x

    def model(self, *names: str) -> Any:
        x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1 if self.batch == 1 else "N", *self.w.shape])
        outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
        return self.w.model(names[0], inputs=[x], outputs=outputs)


def run(model: Any, x: Array) -> list[Array] | None:
    """As the file says it; None where onnxruntime does not load it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        results: list[Array] = ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})
    except Exception:  # its own classes
        return None
    return results


@pytest.mark.parametrize("block", range(3))
def test_resize(block: int) -> None:
    """Equal, but where a quantizer rounds the middle between two codes: onnxruntime rounds the products of an interpolation before."""
    integer = 0
    for seed in range(25 * block, 25 * block + 25):
        r = Resized(seed)
        x = r.rng.standard_normal((r.batch, *r.w.shape)).astype(np.float32) * 3
        names = [r.result] if r.between is None or r.between[0] == r.result else [r.result, r.between[0]]
        want = run(r.model(*names), x)
        if want is None:
            continue
        network = ulp.load(r.model(r.result), tune=False)
        got = network(x)
        assert got.shape == want[0].shape, seed
        wrong = np.abs(got - want[0]) > 1e-5
        if r.between is not None:
            steps = want[-1].astype(np.float64) / r.between[1]
            wrong &= ~(np.abs(steps - np.floor(steps) - 0.5) < 5e-5).any(axis=1, keepdims=True)
        assert not wrong.any(), f"{seed}\n{network}"
        integer += {row.op_type: row.integer for row in network.layers}["Resize"]
    assert integer > 9


def test_a_crop_is_left_to_floats() -> None:
    """What lies outside of the image has a value of its own."""
    w = Quantized((2, 4, 6))
    roi = w.constant(np.array([0, 0, -0.5, 0.2, 1, 1, 1.5, 0.9], np.float32))
    options: dict[str, Any] = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 1.5}
    y = w.add("Resize", w.codes("x"), roi, w.constant(np.array([1, 1, 2, 2], np.float32)), **options)
    model, x = w.model(w.add("Conv", w.codes(y), w.integers(3, 2, 1, 1))), w.rng.standard_normal((2, 2, 4, 6)).astype(np.float32)
    expected = run(model, x)
    assert expected is not None
    np.testing.assert_allclose(ulp.load(model, tune=False)(x), expected[0], rtol=1e-6, atol=1e-6)
