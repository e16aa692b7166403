"""Operators of ulp.onnx against onnxruntime's, where onnx's own cases are few: windows, interpolation, quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="the loader of models needs the package onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the peer")

from onnx import helper  # noqa: E402  # only where there is onnx

from ulp.onnx.model import OnnxError  # noqa: E402
from ulp.onnx.operators import OPERATORS  # noqa: E402

Array = npt.NDArray[Any]
OPSET = 21


def peer(op_type: str, attributes: dict[str, Any], inputs: list[Array | None], outputs: int = 1, opset: int = OPSET) -> list[Array] | None:
    """onnxruntime's results; None where it refuses."""
    names = ["" if array is None else f"i{i}" for i, array in enumerate(inputs)]
    given_ = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    node = helper.make_node(op_type, names, [f"o{i}" for i in range(outputs)], **attributes)
    ports = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given_.items()]
    graph = helper.make_graph(
        [node], "g", ports, [helper.make_value_info(f"o{i}", helper.make_tensor_type_proto(0, None)) for i in range(outputs)]
    )
    for port in graph.output:
        port.ClearField("type")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results: list[Array] = session.run(None, given_)
    except Exception:  # of its many kinds
        return None
    return results


def compare(
    op_type: str, attributes: dict[str, Any], inputs: list[Array | None], *, outputs: int = 1, exact: bool = False, tolerance: float = 1e-5
) -> None:
    """Equal results; what onnxruntime refuses is not looked at."""
    expected = peer(op_type, attributes, inputs, outputs)
    assume(expected is not None)
    assert expected is not None
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}
    results = OPERATORS[op_type].bind(lists, OPSET, inputs=len(inputs), outputs=outputs)(*inputs)
    for result, value in zip(results, expected, strict=True):
        assert (result.dtype, result.shape) == (value.dtype, value.shape), attributes
        if exact:
            np.testing.assert_array_equal(result, value, str(attributes))
        else:
            np.testing.assert_allclose(result, value, rtol=max(1e-4, tolerance), atol=tolerance, err_msg=str(attributes))


def floats(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


@st.composite
def window(draw: st.DrawFn, *, dilated: bool = True) -> tuple[int, dict[str, Any]]:
    """How many sides there are, and attributes that slide a window over them."""
    sides = draw(st.integers(1, 3))

    def numbers(low: int, high: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(low, high), min_size=sides, max_size=sides)

    attributes: dict[str, Any] = {"kernel_shape": draw(numbers(1, 3)), "strides": draw(numbers(1, 3))}
    if dilated:
        attributes["dilations"] = draw(numbers(1, 2))
    way = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if way == "NOTSET":
        max_pad = min(attributes["kernel_shape"]) - 1
        attributes["pads"] = draw(numbers(0, max_pad)) + draw(numbers(0, max_pad))
    else:
        attributes["auto_pad"] = way
        # Else the formula for the padding gives a negative number, which ONNX says nothing of.
        assume(all(stride <= side for stride, side in zip(attributes["strides"], attributes["kernel_shape"], strict=True)))
    return sides, attributes


@given(window(), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.integers(0, 2**32 - 1))
def test_conv(case: tuple[int, dict[str, Any]], each: int, groups: int, biased: bool, seed: int) -> None:
    sides, attributes = case
    rng = np.random.default_rng(seed)
    x = floats(rng, 2, each * groups, *rng.integers(5, 9, sides))
    w = floats(rng, 2 * groups, each, *attributes["kernel_shape"])
    compare("Conv", {**attributes, "group": groups}, [x, w, floats(rng, 2 * groups) if biased else None])


@given(window(), st.integers(1, 2), st.booleans(), st.integers(0, 2**32 - 1))
def test_conv_transpose(case: tuple[int, dict[str, Any]], groups: int, extra: bool, seed: int) -> None:
    sides, attributes = case
    rng = np.random.default_rng(seed)
    if extra:
        attributes["output_padding"] = [stride - 1 for stride in attributes["strides"]]
    x, w = floats(rng, 2, 2 * groups, *rng.integers(3, 7, sides)), floats(rng, 2 * groups, 3, *attributes["kernel_shape"])
    assume("auto_pad" not in attributes or max(attributes["dilations"]) == 1)
    compare("ConvTranspose", {**attributes, "group": groups}, [x, w, floats(rng, 3 * groups)])


@given(window(), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_max_pool(case: tuple[int, dict[str, Any]], ceil: bool, indices: bool, seed: int) -> None:
    sides, attributes = case
    rng = np.random.default_rng(seed)
    # Where ONNX counts the dilation as part of the kernel, onnxruntime does not.
    assume("auto_pad" not in attributes or not (ceil or max(attributes["dilations"]) > 1))
    compare(
        "MaxPool", {**attributes, "ceil_mode": int(ceil)}, [floats(rng, 2, 2, *rng.integers(5, 9, sides))], outputs=1 + indices, exact=True
    )


@given(window(dilated=False), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_average_pool(case: tuple[int, dict[str, Any]], ceil: bool, padding: bool, seed: int) -> None:
    sides, attributes = case
    rng = np.random.default_rng(seed)
    assume(not (ceil and "auto_pad" in attributes))
    attributes |= {"ceil_mode": int(ceil), "count_include_pad": int(padding)}
    compare("AveragePool", attributes, [floats(rng, 2, 2, *rng.integers(5, 9, sides))])


@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_resize(mode: str, coordinates: str, nearest: str, by_scales: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = floats(rng, 1, 2, *rng.integers(2, 7, 2))
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes["nearest_mode"] = nearest
    # ONNX's own cases scale corners by the size before it is rounded down, onnxruntime by that of the result.
    assume(not (by_scales and coordinates == "align_corners"))
    # Where rounding decides, the two may differ: test_onnx_operators.py compares with exact coordinates.
    rounds = mode == "nearest" and "half_pixel" in coordinates
    assume(by_scales or not rounds)
    scales = np.array([1, 1, *(rng.choice([0.5, 1, 2, 4], 2) if rounds else rng.integers(2, 12, 2) / 4)], np.float32)
    sizes = np.array([1, 2, *rng.integers(1, 12, 2)], np.int64)
    # Where the size stays, onnxruntime copies, whatever the scales.
    assume(not (by_scales and any(scale != 1 and int(scale * side) == side for scale, side in zip(scales, x.shape, strict=True))))
    compare("Resize", attributes, [x, None, scales, None] if by_scales else [x, None, None, sizes], tolerance=1e-3)


@given(st.sampled_from(["uint8", "int8", "uint16", "int16"]), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_quantize_and_dequantize(dtype: str, per_axis: bool, has_zero: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (floats(rng, 2, 3, 4) * 50).astype(np.float32)
    x.reshape(-1)[:4] = (np.inf, -np.inf, 0.5, 1e30)
    scale = np.abs(floats(rng, 3) if per_axis else floats(rng, 1)[0]) + np.float32(0.01)
    limits = np.iinfo(dtype)
    zero = rng.integers(limits.min, limits.max, np.shape(scale), endpoint=True).astype(dtype) if has_zero or dtype != "uint8" else None
    scale, zero = np.asarray(scale, np.float32), None if zero is None else np.asarray(zero, dtype)
    compare("QuantizeLinear", {}, [x, scale, zero], exact=True)
    codes = rng.integers(limits.min, limits.max, x.shape, endpoint=True).astype(dtype)
    compare("DequantizeLinear", {}, [codes, scale, zero], exact=True)


@given(st.sampled_from(["uint8", "int8"]), st.sampled_from(["uint8", "int8"]), st.booleans(), st.integers(0, 2**32 - 1))
def test_integer_products(a_dtype: str, b_dtype: str, per_column: bool, seed: int) -> None:
    """Weights of 4 bits: onnxruntime's sums of larger ones saturate on some CPUs."""
    rng = np.random.default_rng(seed)

    def codes(dtype: str, *shape: int) -> Array:
        return np.asarray(rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, endpoint=True)).astype(dtype)

    def weights(dtype: str, *shape: int) -> Array:
        return np.asarray(rng.integers(-8 if dtype == "int8" else 0, 8, shape)).astype(dtype)

    b_zero = weights(b_dtype, 5) if per_column and b_dtype == "int8" else weights(b_dtype)
    compare("MatMulInteger", {}, [codes(a_dtype, 2, 3, 7), weights(b_dtype, 7, 5), codes(a_dtype), b_zero], exact=True)
    x, w = codes("uint8", 2, 4, 6, 5), weights("uint8", 6, 2, 3, 3)
    compare("ConvInteger", {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1]}, [x, w, codes("uint8"), weights("uint8")], exact=True)


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_others(rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) for side in rng.integers(1, 5, rank))
    x = floats(rng, *shape)
    starts, ends, steps = rng.integers(-7, 7, rank), rng.integers(-7, 7, rank), rng.choice([-2, -1, 1, 2], rank)
    compare("Slice", {}, [x, starts, ends, np.arange(rank), steps], exact=True)
    pads = rng.integers(0, 3, 2 * rank)
    for mode in ("constant", "edge", "reflect", "wrap"):
        if mode in ("constant", "edge") or (np.tile(shape, 2) > pads).all():
            compare("Pad", {"mode": mode}, [x, pads], exact=True)
    for op_type in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
        axes = rng.permutation(rank)[: rng.integers(0, rank + 1)]
        compare(op_type, {"keepdims": int(rng.integers(2))}, [x, axes])
    compare("Softmax", {"axis": int(rng.integers(-rank, rank))}, [x])
    sizes = rng.multinomial(shape[0], [0.5, 0.5])
    compare("Split", {"axis": 0}, [x, sizes], outputs=2, exact=True)
    compare("TopK", {"axis": -1, "largest": int(rng.integers(2))}, [x, np.array([rng.integers(0, shape[-1] + 1)])], outputs=2, exact=True)
    compare("Erf", {}, [x])
    compare("Gelu", {}, [x])


def test_refusals_name_what_they_refuse() -> None:
    with pytest.raises(OnnxError, match=r"a kernel that reaches over 5 does not fit 4 elements padded by 0 and 0"):
        OPERATORS["MaxPool"]({"kernel_shape": (5,)}, OPSET, np.zeros((1, 1, 4), np.float32))
    with pytest.raises(OnnxError, match=r"the input B has type float64, but those before it have float32"):
        OPERATORS["Add"]({}, OPSET, np.zeros(2, np.float32), np.zeros(2))
    with pytest.raises(OnnxError, match=r"inputs of shapes \[2\], \[3\] do not fit"):
        OPERATORS["Add"]({}, OPSET, np.zeros(2), np.zeros(3))
    with pytest.raises(OnnxError, match=r"1 inputs, expected A, B"):
        OPERATORS["Add"]({}, OPSET, np.zeros(2))
    with pytest.raises(OnnxError, match=r"Gelu begins with opset 20, but the model is of opset 13"):
        OPERATORS["Gelu"]({}, 13, np.zeros(2))
