"""`nn.ConvTranspose2d` against sums over its definition, and against torch."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from reference import Array

from ulp import nn

F32 = np.float32


def definition(x: Array, w: Array, stride: Any, padding: Any, extra: Any, dilation: Any, groups: int) -> Array:
    """Every pixel of x (N, C, H, W), times the kernel (C, O / groups, kh, kw), is added to the result: int64."""
    images, inputs, *image = x.shape
    outputs, kernel = w.shape[1], w.shape[2:]
    full = [(n - 1) * s + d * (k - 1) + 1 + e for n, s, d, k, e in zip(image, stride, dilation, kernel, extra, strict=True)]
    total = np.zeros((images, groups * outputs, *full), np.int64)
    each = inputs // groups
    for g in range(groups):
        a, b = x[:, g * each : (g + 1) * each].astype(np.int64), w[g * each : (g + 1) * each].astype(np.int64)
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                top, left = i * dilation[0], j * dilation[1]
                rows = slice(top, top + (image[0] - 1) * stride[0] + 1, stride[0])
                columns = slice(left, left + (image[1] - 1) * stride[1] + 1, stride[1])
                total[:, g * outputs : (g + 1) * outputs, rows, columns] += np.einsum("nchw,co->nohw", a, b[:, :, i, j])
    return total[:, :, padding[0] : full[0] - padding[0], padding[1] : full[1] - padding[1]]


@pytest.mark.parametrize("seed", range(24))
def test_transposed_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    inputs, outputs = groups * int(rng.integers(1, 7)), groups * int(rng.integers(1, 7))
    kernel, stride, dilation = (tuple(map(int, rng.integers(1, high, 2))) for high in (6, 4, 3))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(int(rng.integers(0, (r + 1) // 2 + 1)) for r in reach)
    extra = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True))
    bits, act_bits = int(rng.integers(1, 9)), int(rng.integers(2, 9))
    layer = nn.ConvTranspose2d(
        *(inputs, outputs, kernel, stride, padding, extra, groups, bool(seed % 2), dilation),
        bits=bits,
        act_bits=act_bits,
        act_asymmetric=bool(rng.integers(0, 2)),
    )
    layer.weight = rng.standard_normal((inputs, outputs // groups, *kernel)).astype(F32)
    x = rng.standard_normal((2, inputs, *rng.integers(5, 9, 2))).astype(F32)
    layer.calibrate([x], progress=False)
    q = layer.quantizer
    assert q is not None
    sums = definition(q.codes(x).astype(np.int64) - q.zero, layer.weight_int, stride, padding, extra, dilation, groups)
    scale = (layer.weight_scale * F32(q.scale)).astype(F32).reshape(-1, 1, 1)
    bias = np.zeros(outputs, F32) if layer.bias is None else layer.bias
    want = sums.astype(F32) * scale + bias.reshape(-1, 1, 1)
    np.testing.assert_array_equal(layer(x), want)
    np.testing.assert_array_equal(layer(x[0]), want[0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(x), want)
    again = nn.ConvTranspose2d(
        inputs, outputs, kernel, stride, padding, extra, groups, bool(seed % 2), dilation, bits=bits, act_bits=act_bits
    )
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again.weight_int, layer.weight_int)
    options: dict[str, Any] = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    given = nn.ConvTranspose2d.from_quantized(
        layer.weight_int, layer.weight_scale, layer.bias, q.scale, q.zero, bits=bits, act_bits=act_bits, **options
    )
    np.testing.assert_array_equal(given(x), want)
    # Behind it floats, and codes, which come from a convolution per place of a pixel.
    for behind in ([], [nn.ReLU(), nn.Conv2d(outputs, 3, 1, bits=4)], [nn.Conv2d(outputs, 3, 1, bits=2)]):
        network = nn.Sequential(layer, *behind)
        for module in behind:
            module.calibrate([want], progress=False)
        np.testing.assert_array_equal(nn.compile(network, x, tune=False)(x), network(x))


@pytest.mark.parametrize("seed", range(8))
def test_eight_bits_are_near_torchs(seed: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    groups = 1 + seed % 2
    source = torch.nn.ConvTranspose2d(4, 6, 1 + seed % 5, 1 + seed % 3, seed % 2 and seed % 5 and 1, groups=groups).eval()
    x = torch.randn(2, 4, 7, 6)
    layer = nn.ConvTranspose2d.from_float(source, bits=8).calibrate([x.numpy()], progress=False)
    assert layer.weight.shape == tuple(source.weight.shape)
    with torch.no_grad():
        want = source(x).numpy()
    assert np.abs(layer(x.numpy()) - want).max() < 0.02 * np.abs(want).max() + 0.02


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="must be smaller than either stride"):
        nn.ConvTranspose2d(4, 4, 3, output_padding=1, bits=4)
    with pytest.raises(ValueError, match='Only "zeros" padding mode'):
        nn.ConvTranspose2d(4, 4, 3, padding_mode="reflect", bits=4)
    with pytest.raises(ValueError, match="groups=3"):
        nn.ConvTranspose2d(4, 6, 3, groups=3, bits=4)
    layer = nn.ConvTranspose2d(4, 6, 3, padding=9, bits=4)
    with pytest.raises(nn.LayerError, match="expected input"):
        layer(np.zeros((1, 3, 5, 5), F32))
    with pytest.raises(nn.LayerError, match="padding"):
        layer(np.zeros((1, 4, 5, 5), F32))
    with pytest.raises(nn.LayerError, match=r"expected \[4, 6, 3, 3\]"):
        layer.weight = np.zeros((6, 4, 3, 3), F32)
    assert repr(layer).startswith("ConvTranspose2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(9, 9), bits=4")
