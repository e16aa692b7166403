"""Layers give what their formulas say, bit for bit, whatever their parameters; and torch's words where something does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nn_formulas as formulas
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nn_formulas import BACKENDS, images, plans_of
from reference import Array, assert_exact

import ulp
from ulp import nn

widths = st.integers(1, 8)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def quantizer(draw: Callable[[st.SearchStrategy[Any]], Any], bits: int) -> nn.Quantizer:
    zero = draw(st.one_of(st.sampled_from([0, 2 ** (bits - 1)]), st.integers(0, 2**bits - 1)))
    return nn.Quantizer(bits, draw(st.floats(2.0**-6, 2.0, width=32)), zero)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, Array]:
    """(layer, input) that go together."""
    rng = np.random.default_rng(draw(seeds))
    groups = draw(st.sampled_from([1, 1, 2, 3, 5]))
    each, own = draw(st.sampled_from([(draw(st.integers(1, 9)), draw(st.integers(1, 9))), (1, 1)]))
    kernel = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding: str | tuple[int, int] = draw(st.one_of(st.sampled_from(["same", "valid"]), st.tuples(st.integers(0, 4), st.integers(0, 4))))
    stride = (1, 1) if padding == "same" else (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    size = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits, act_bits = draw(widths), draw(widths)
    layer = nn.Conv2d(
        groups * each, groups * own, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode, bits=bits, act_bits=act_bits
    )
    sides = layer.sides
    for i in (0, 1):
        assume(size[i] + sides[i] + sides[i + 2] > dilation[i] * (kernel[i] - 1))
        assume(mode in ("zeros", "replicate") or max(sides[i], sides[i + 2]) < size[i] + (mode == "circular"))
    layer.weight = images(rng, groups * own, each, *kernel)
    layer.quantizer = quantizer(draw, act_bits)
    return layer, images(rng, draw(st.integers(1, 3)), groups * each, *size)


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=convolutions())
def test_conv2d(backend: str, case: tuple[nn.Conv2d, Array]) -> None:
    layer, x = case
    with plans_of(backend):
        layer.quantizer = layer.quantizer  # forgets the other backend's plan
        assert_exact(layer(x), formulas.conv2d(x, layer), repr(layer))
        assert_exact(layer(x[0]), formulas.conv2d(x[:1], layer)[0], "one image without a batch")


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=seeds, rows=st.integers(1, 5), k=st.integers(1, 70), n=st.integers(1, 40), bits=widths, act_bits=widths, data=st.data())
def test_linear(backend: str, seed: int, rows: int, k: int, n: int, bits: int, act_bits: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    layer = nn.Linear(k, n, data.draw(st.booleans()), bits=bits, act_bits=act_bits)
    layer.weight = images(rng, n, k)
    layer.quantizer = quantizer(data.draw, act_bits)
    x = images(rng, rows, k)
    expected = formulas.linear(x, layer)
    with plans_of(backend):
        assert_exact(layer(x), expected, repr(layer))
        assert_exact(layer(x[0]), expected[0], "one row")
        assert_exact(layer(np.stack([x, x])), np.stack([expected, expected]), "rows of two dimensions")


@st.composite
def poolings(draw: st.DrawFn) -> dict[str, object]:
    dilation = draw(st.integers(1, 3))
    kernel = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    return {
        "kernel_size": kernel,
        "stride": draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4)))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "dilation": dilation,
        "ceil_mode": draw(st.booleans()),
    }


@given(seed=seeds, pool=poolings(), height=st.integers(1, 14), width=st.integers(1, 14), channels=st.integers(1, 9))
def test_max_pool2d(seed: int, pool: dict[str, object], height: int, width: int, channels: int) -> None:
    layer = nn.MaxPool2d(**pool)  # type: ignore[arg-type]  # they are its arguments
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    assume(height + 2 * layer.padding[0] >= reach[0] and width + 2 * layer.padding[1] >= reach[1])
    x = images(np.random.default_rng(seed), 2, channels, height, width)
    expected = formulas.max_pool2d(x, layer)
    assert_exact(layer(x), expected, repr(layer))
    assert_exact(layer(x[1]), expected[1], "one image without a batch")


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=seeds, pool=poolings(), height=st.integers(1, 14), width=st.integers(1, 14), channels=st.integers(1, 9), data=st.data())
def test_avg_pool2d(backend: str, seed: int, pool: dict[str, object], height: int, width: int, channels: int, data: st.DataObject) -> None:
    del pool["dilation"]
    bits = data.draw(widths)
    layer = nn.AvgPool2d(
        **pool,  # type: ignore[arg-type]  # they are its arguments
        count_include_pad=data.draw(st.booleans()),
        divisor_override=data.draw(st.sampled_from([None, None, 3, -2])),
        act_bits=bits,
    )
    assume(height + 2 * layer.padding[0] >= layer.kernel_size[0] and width + 2 * layer.padding[1] >= layer.kernel_size[1])
    layer.quantizer = nn.Quantizer(bits, 0.125, data.draw(st.integers(0, 2**bits - 1)))
    x = images(np.random.default_rng(seed), 2, channels, height, width)
    identity = layer.kernel_size == layer.stride == (1, 1) and layer.divisor_override is None
    with plans_of(backend):
        assert_exact(layer(x), x if identity else formulas.avg_pool2d(x, layer), repr(layer))


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=seeds, height=st.integers(1, 14), width=st.integers(1, 14), channels=st.integers(1, 9), bits=widths, data=st.data())
def test_adaptive_avg_pool2d(backend: str, seed: int, height: int, width: int, channels: int, bits: int, data: st.DataObject) -> None:
    side = st.one_of(st.none(), st.integers(1, 9))
    layer = nn.AdaptiveAvgPool2d((data.draw(side), data.draw(side)), act_bits=bits)
    layer.quantizer = nn.Quantizer(bits, 0.1, data.draw(st.integers(0, 2**bits - 1)))
    x = images(np.random.default_rng(seed), 2, channels, height, width)
    identity = all(n in (None, size) for n, size in zip(layer.output_size, x.shape[2:], strict=True))
    with plans_of(backend):
        assert_exact(layer(x), x if identity else formulas.adaptive_avg_pool2d(x, layer), repr(layer))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 7), (3,), (2, 0, 4, 4), (2, 3, 4)])
def test_add_and_quantize(backend: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, y = images(rng, *shape), images(rng, *shape)
    q = nn.Quantizer(4, 0.3, 5)
    add, quantize = nn.Add(4), nn.Quantize(4)
    add.quantizer = quantize.quantizer = q
    with plans_of(backend):
        assert_exact(add(x, y), x + formulas.rounded(y, q), "Add")
        assert_exact(quantize(x), formulas.rounded(x, q), "Quantize")


def test_elementwise_layers_and_shapes() -> None:
    x = images(np.random.default_rng(0), 2, 3, 4, 5) * 4
    assert_exact(nn.ReLU(inplace=True)(x), np.maximum(x, 0), "ReLU")
    assert_exact(nn.ReLU6()(x), np.clip(x, 0, 6), "ReLU6")
    assert nn.Identity(54, unused=1)(x) is x
    assert nn.Dropout(0.3)(x) is x
    assert_exact(nn.Flatten()(x), x.reshape(2, -1), "Flatten")
    assert_exact(nn.Flatten(1, 2)(x), x.reshape(2, 12, 5), "Flatten")
    assert_exact(nn.Flatten(0, -1)(x), x.ravel(), "Flatten")
    assert nn.Flatten()(x[:0]).shape == (0, 60)
    assert_exact(nn.Concat(1)(x, x + 1), np.concatenate([x, x + 1], 1), "Concat")
    assert_exact(nn.Concat(-1)([x, x[..., :2]]), np.concatenate([x, x[..., :2]], 3), "Concat of a list")


def test_batch_norm() -> None:
    rng = np.random.default_rng(0)
    x = images(rng, 2, 3, 4, 5)
    layer = nn.BatchNorm2d(3, eps=1e-3)
    mean, var, weight, bias = images(rng, 3), images(rng, 3) ** 2, images(rng, 3), images(rng, 3)
    layer.load_state_dict({"running_mean": mean, "running_var": var, "weight": weight, "bias": bias, "num_batches_tracked": np.array(7)})
    scale = weight.astype(np.float64) / np.sqrt(var.astype(np.float64) + 1e-3)
    shift = bias - mean * scale
    expected = x * scale.astype(np.float32)[:, None, None] + shift.astype(np.float32)[:, None, None]
    assert_exact(layer(x), expected, "BatchNorm2d")
    layer.bias = np.zeros(3, np.float32)
    assert_exact(layer(x), x * scale.astype(np.float32)[:, None, None] - (mean * scale).astype(np.float32)[:, None, None], "a new bias")
    with pytest.raises(ValueError, match="read-only"):
        layer.running_var[0] = 2
    assert_exact(nn.BatchNorm2d(3, eps=0, affine=False)(x), x, "the identity")


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
@pytest.mark.parametrize("signed", [None, False, True])
def test_dynamic_layers_use_the_range_of_each_call(backend: str, bits: int, signed: bool | None) -> None:
    if signed and bits == 1:
        pytest.skip("one bit has no signed codes")
    rng = np.random.default_rng(bits)
    x = images(rng, 2, 6, 7, 8)
    positive = np.abs(x)
    options = {"act_bits": bits, "act_signed": signed}

    def pair(kind: type, *args: object, **more: object) -> tuple[nn.Module, nn.Module]:
        dynamic, static = kind(*args, **more, **options, dynamic=True), kind(*args, **more, **options)
        static.load_state_dict(dynamic.state_dict())  # weights are drawn at random
        return dynamic, static

    layers = [
        pair(nn.Conv2d, 6, 5, 3, padding=1, bits=3),
        pair(nn.Conv2d, 6, 6, 3, groups=6, bias=False, bits=8),
        pair(nn.AvgPool2d, 2),
        pair(nn.AdaptiveAvgPool2d, (2, 3)),
        pair(nn.Quantize),
    ]
    with plans_of(backend):
        for value in (x, positive, x * 0, x * 1e-3):
            for dynamic, static in layers:
                static.calibrate([value], "minmax")
                assert_exact(dynamic(value), static(value), f"{dynamic}")
        dynamic, static = pair(nn.Linear, 6, 5, bits=2)
        rows = x[:, :, 0, 0]
        assert_exact(dynamic(rows), static.calibrate([rows], "minmax")(rows), "Linear")
        dynamic, static = pair(nn.Add)
        static.quantizer = dynamic.quantizer_for(positive)  # type: ignore[attr-defined]  # they are Adds
        assert_exact(dynamic(x, positive), static(x, positive), "Add")


def test_numbers_of_images_sizes_and_layouts(backend: str) -> None:
    rng = np.random.default_rng(0)
    layer = nn.Conv2d(3, 4, 3, bits=4)
    with plans_of(backend):
        layer.calibrate([images(rng, 1, 3, 8, 8)])
        assert layer(np.zeros((0, 3, 8, 8), np.float32)).shape == (0, 4, 6, 6)
        for size in range(3, 43):  # more sizes than a layer keeps plans
            x = images(rng, 1, 3, size, 5)
            assert_exact(layer(x), formulas.conv2d(x, layer), str(size))
        x = images(rng, 5, 8, 9, 3).transpose(0, 3, 1, 2)
        expected = layer(np.ascontiguousarray(x))
        assert_exact(layer(x), expected, "a transposed view")
        assert_exact(layer(x.astype(np.float64)), expected, "float64")
        raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
        raw[...] = x
        assert_exact(layer(raw), expected, "unaligned")
        x = np.ascontiguousarray(x)
        x.flags.writeable = False
        assert_exact(layer(x), expected, "read-only")


def test_changes_of_a_layer_are_seen(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = images(rng, 1, 3, 8, 8)
    layer = nn.Conv2d(3, 4, 3, bits=4)
    with plans_of(backend):
        layer.calibrate([x])
        before = layer(x)
        layer.weight = images(rng, 4, 3, 3, 3)
        assert_exact(layer(x), formulas.conv2d(x, layer), "new weights")
        assert not np.array_equal(layer(x), before)
        layer.bias = np.arange(4)
        assert_exact(layer(x), formulas.conv2d(x, layer), "new bias")
        layer.quantizer = nn.Quantizer(4, 0.5)
        assert_exact(layer(x), formulas.conv2d(x, layer), "new quantizer")
        layer.stride = (2, 2)
        assert_exact(layer(x), formulas.conv2d(x, layer), "new stride")


def test_from_quantized(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = images(rng, 2, 4, 8, 8)
    w = rng.integers(-4, 4, (6, 2, 3, 3))
    scale, bias = rng.random(6).astype(np.float32), images(rng, 6)
    with plans_of(backend):
        layer = nn.Conv2d.from_quantized(w, scale, bias, 0.25, 3, bits=3, act_bits=4, groups=2, padding="same")
        assert_exact(layer.weight_int, w.astype(np.int8), "weights")
        assert_exact(layer(x), formulas.conv2d(x, layer), "Conv2d")
        binary = nn.Linear.from_quantized([[1, -1, -1, 1]], 0.5, act_scale=0.25, bits=1, act_bits=2)
        assert binary.bias is None
        rows = np.array([[0.5, 0.25, 0.0, 3.0]], np.float32)
        assert_exact(binary(rows), np.array([[(2 - 1 - 0 + 3) * 0.125]], np.float32), "Linear")
    for wrong in (w * 2, w.astype(np.float32)):
        with pytest.raises((ValueError, TypeError), match="weight_int"):
            nn.Conv2d.from_quantized(wrong, scale, bits=3, groups=2)
    with pytest.raises(ValueError, match=r"weight_int holds 0, which is outside -1 or \+1"):
        nn.Linear.from_quantized([[1, 0]], 1.0, bits=1, act_bits=1)
    with pytest.raises(ValueError, match=r"act_zero=16: expected an integer from 0 to 15"):
        nn.Conv2d.from_quantized(w, scale, None, 0.25, 16, bits=3, act_bits=4, groups=2)
    with pytest.raises(ValueError, match=r"act_zero=0 with act_signed=True: .* have act_zero=8"):
        nn.Conv2d.from_quantized(w, scale, None, 0.25, bits=3, act_bits=4, act_signed=True, groups=2)


WORDS = [
    (
        lambda: nn.Conv2d(3, 8, 3, bits=3, act_bits=4),
        (1, 5, 8, 8),
        "Given groups=1, weight of size [8, 3, 3, 3], expected input[1, 5, 8, 8] to have 3 channels, but got 5 channels instead",
    ),
    (
        lambda: nn.Conv2d(3, 8, 5, bits=3),
        (1, 3, 4, 4),
        "Calculated padded input size per channel: (4 x 4). Kernel size: (5 x 5). Kernel size can't be greater than actual input size",
    ),
    (
        lambda: nn.Conv2d(3, 8, 3, bits=3),
        (1, 1, 3, 4, 4),
        "Expected 3D (unbatched) or 4D (batched) input to Conv2d, but got input of size: [1, 1, 3, 4, 4]",
    ),
    (
        lambda: nn.Conv2d(3, 8, 3, padding=4, padding_mode="reflect", bits=3),
        (1, 3, 4, 9),
        "Padding size should be less than the corresponding input dimension, but got: padding (4, 4) at dimension 2 of input [1, 3, 4, 9]",
    ),
    (lambda: nn.Linear(7, 2, bits=3), (5, 6), "mat1 and mat2 shapes cannot be multiplied (5x6 and 7x2)"),
    (lambda: nn.MaxPool2d(3), (1, 1, 2, 2), "Given input size: (1x2x2). Calculated output size: (1x0x0). Output size is too small"),
    (lambda: nn.BatchNorm2d(3), (1, 4, 2, 2), "running_mean should contain 4 elements not 3"),
    (lambda: nn.BatchNorm2d(3), (4, 2), "expected 4D input (got 2D input)"),
    (lambda: nn.Flatten(2), (4, 2), "Dimension out of range (expected to be in range of [-2, 1], but got 2)"),
    (lambda: nn.AvgPool2d(2), (4, 2), "Expected 3D (unbatched) or 4D (batched) input to AvgPool2d, but got input of size: [4, 2]"),
]


@pytest.mark.parametrize(("make", "shape", "words"), WORDS)
def test_shapes_that_do_not_fit(make: Callable[[], nn.Module], shape: tuple[int, ...], words: str) -> None:
    layer = make()
    if isinstance(layer, (nn.Conv2d, nn.Linear, nn.AvgPool2d)):
        layer.quantizer = nn.Quantizer(layer.act_bits, 1.0)
    x = np.zeros(shape, np.float32)
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind) as caught:
            layer(x)
        assert str(caught.value) == words
    with pytest.raises(RuntimeError) as caught:
        nn.Sequential(nn.Identity(), layer)(x)
    assert str(caught.value) == f"layer '1': {words}"


def test_sums_and_concatenations_that_do_not_fit() -> None:
    a, b = np.zeros((1, 5, 2, 2), np.float32), np.zeros((1, 4, 2, 2), np.float32)
    with pytest.raises(
        RuntimeError, match=r"The size of tensor a \(5\) must match the size of tensor b \(4\) at non-singleton dimension 1"
    ):
        nn.Add(dynamic=True)(a, b)
    with pytest.raises(RuntimeError, match="Expected size 5 but got size 4 for tensor number 1 in the list"):
        nn.Concat(2)(a, b)
    with pytest.raises(RuntimeError, match="Tensors must have same number of dimensions: got 4 and 3"):
        nn.Concat(1)(a, b[0])
    with pytest.raises(RuntimeError, match="expected a non-empty list"):
        nn.Concat(1)([])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Conv2d(4, 6, 3, groups=3, bits=2), "in_channels must be divisible by groups"),
        (lambda: nn.Conv2d(6, 4, 3, groups=3, bits=2), "out_channels must be divisible by groups"),
        (lambda: nn.Conv2d(6, 4, 3, groups=0, bits=2), "groups must be a positive integer"),
        (lambda: nn.Conv2d(6, 4, 3, 2, "same", bits=2), "padding='same' is not supported for strided convolutions"),
        (lambda: nn.Conv2d(6, 4, 3, 2, "full", bits=2), "Invalid padding string 'full', should be one of 'same', 'valid'"),
        (lambda: nn.Conv2d(6, 4, 3, padding_mode="mirror", bits=2), "padding_mode must be one of"),
        (lambda: nn.Conv2d(6, 4, 0, bits=2), "kernel_size=0: expected an integer from 1 to 4096"),
        (lambda: nn.Conv2d(6, 4, (1, 2, 3), bits=2), r"kernel_size=\(1, 2, 3\): expected an int or two of them"),
        (lambda: nn.Conv2d(6, 4, 3, bits=9), "bits=9: expected a bit width from 1 to 8"),
        (lambda: nn.Conv2d(6, 4, 3, bits=3, weight_method="best"), "weight_method='best': expected 'mse' or 'minmax'"),  # type: ignore[arg-type]
        (lambda: nn.Linear(6, 4, bits=3, weight_range="half"), "weight_range='half': expected 'full' or 'narrow'"),  # type: ignore[arg-type]
        (lambda: nn.Linear(6, 4, bits=2, act_bits=1, act_signed=True), "act_signed=True with act_bits=1"),
        (lambda: nn.Linear(6, 4, bits=2, act_asymmetric=True, dynamic=True), "dynamic=True with act_asymmetric=True"),
        (lambda: nn.MaxPool2d(2, padding=2), "pad should be at most half of effective kernel size, but got pad=2, kernel_size=2"),
        (lambda: nn.MaxPool2d(2, return_indices=True), "return_indices=True is not supported"),
        (lambda: nn.AvgPool2d(2, divisor_override=0), "divisor must be not zero"),
        (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), "expected an int, None or two of them"),
        (lambda: nn.BatchNorm2d(3, track_running_stats=False), "track_running_stats=False"),
        (lambda: nn.Dropout(1.5), "dropout probability has to be between 0 and 1, but got 1.5"),
        (lambda: nn.Quantizer(3, 0.0), "scale=0.0: expected a positive float32 number"),
        (lambda: nn.Quantizer(3, 1.0, 8), "zero=8: expected a code from 0 to 7"),
    ],
)
def test_arguments_that_cannot_be(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_one_bit_weights_need_the_bits_of_activations() -> None:
    with pytest.raises(TypeError, match="act_bits is needed where bits=1"):
        nn.Conv2d(3, 3, 3, bits=1)
    assert nn.Conv2d(3, 3, 3, bits=4).act_bits == 4


def test_a_layer_that_is_not_calibrated_says_so() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3, bits=3))

        def forward(self, x: Array) -> Array:
            return np.asarray(self.body(x))

    x = np.zeros((1, 3, 8, 8), np.float32)
    words = "Conv2d is not calibrated, the range of its input is not known: call network.calibrate"
    with pytest.raises(nn.LayerError, match=f"layer 'body.1': {words}"):
        Net()(x)
    with pytest.raises(nn.LayerError, match=f"layer 'body.1': {words}"):
        nn.compile(Net(), x)
    with pytest.raises(nn.LayerError, match="AvgPool2d is not calibrated"):
        nn.AvgPool2d(2)(x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(backend: str, value: float) -> None:
    x = np.zeros((2, 4, 6, 6), np.float32)
    x[1, 2, 3, 4] = value
    with plans_of(backend):
        for dynamic in (False, True):
            for layer in (
                nn.Conv2d(4, 4, 3, bits=3, dynamic=dynamic),
                nn.AvgPool2d(2, dynamic=dynamic),
                nn.Linear(6, 2, bits=2, dynamic=dynamic),
                nn.Quantize(dynamic=dynamic),
            ):
                layer.quantizer = None if dynamic else nn.Quantizer(layer.act_bits, 1.0)
                with pytest.raises(ValueError, match="the input holds a NaN or an infinity"):
                    layer(x)


def test_inputs_that_are_no_floats() -> None:
    with pytest.raises(TypeError, match=r"input has dtype uint8: expected floats, pass input.astype\(np.float32\)"):
        nn.ReLU()(np.zeros((1, 2), np.uint8))
    with pytest.raises(TypeError, match="input 2 has dtype int64"):
        nn.Add(dynamic=True)(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int64))


def test_repr_reads_like_torch() -> None:
    assert repr(nn.Conv2d(3, 8, 3, 2, 1, bits=3, act_bits=4)) == (
        "Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bits=3, act_bits=4)"
    )
    assert repr(nn.Sequential(nn.ReLU(), nn.Linear(3, 2, bias=False, bits=2, dynamic=True))) == (
        "Sequential(\n  (0): ReLU()\n  (1): Linear(in_features=3, out_features=2, bias=False, bits=2, act_bits=2, dynamic=True)\n)"
    )


def test_threads_and_isa_change_nothing() -> None:
    rng = np.random.default_rng(0)
    layer = nn.Conv2d(16, 33, 3, padding=1, bits=3)
    x = images(rng, 3, 16, 40, 40)
    expected = layer.calibrate([x])(x)
    for isa in ulp.available_isas():
        ulp.set_isa(isa)
        for threads in (1, 2, 5):
            ulp.set_num_threads(threads)
            layer.quantizer = layer.quantizer  # plans choose their kernels when they are made
            assert_exact(layer(x), expected, f"{isa}, {threads} threads")
