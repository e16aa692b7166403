"""What cannot be compiled, and the words that say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nn_formulas import Net, images
from reference import assert_exact

from ulp import nn


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda y: y + y, r"`\+` on the result of Conv2d 'conv' cannot be compiled"),
        (lambda y: 1 + y, r"`\+` on the result"),
        (lambda y: np.ones(3, np.float32) * y, r"`\*` on the result"),
        (lambda y: np.maximum(y, 0), "does not support ufuncs"),
        (np.asarray, "a numpy function on the result"),
        (lambda y: y[0], "indexing on the result"),
        (lambda y: y.mean(), r"`\.mean` on the result"),
        (lambda y: y.flatten(), r"Flatten\(0, -1\) cannot be compiled: use Flatten\(1\)"),
        (lambda y: 1 if y else 2, "a condition on the result"),
        (lambda y: nn.Add(dynamic=True)(y, np.zeros(1)), "Add of a layer's result and an array"),
        (lambda y: nn.Concat(2)(y, y), r"Concat\(2\) cannot be compiled"),
        (lambda _: None, "forward returned NoneType"),
        (lambda _: [], "forward returned nothing"),
    ],
)
def test_operations_between_layers(operation: Callable[[Any], Any], words: str) -> None:
    x = np.zeros((1, 3, 8, 8), np.float32)
    network = Net(lambda net, x: operation(net.conv(x)), conv=nn.Conv2d(3, 4, 3, bits=3))
    network.conv.quantizer = nn.Quantizer(3, 1.0)  # type: ignore[attr-defined]  # a Conv2d
    with pytest.raises((nn.LayerError, TypeError), match=words):
        nn.compile(network, x)


def test_a_symbol_has_a_shape_and_flattens() -> None:
    def forward(net: Any, x: Any) -> Any:
        y = net.conv(x)
        assert y.shape == (2, 4, 6, 6)
        assert (y.size(1), y.ndim, y.dtype) == (4, 4, np.float32) if hasattr(y, "node") else True
        return y

    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    network = Net(lambda net, x: forward(net, x) if hasattr(x, "node") else net.conv(x), conv=nn.Conv2d(3, 4, 3, bits=3))
    assert_exact(nn.compile(network.calibrate([x]), x)(x), network(x), "result")
    flat = nn.compile(Net(lambda net, x: net.conv(x).flatten(1), conv=network.get_submodule("conv")), x)
    assert flat(x).shape == (2, 144)


def test_flattened_images_cannot_be_concatenated_or_added() -> None:
    x = images(np.random.default_rng(0), 2, 3, 4, 4)

    def forward(net: Any, x: Any) -> Any:
        return net.linear(net.cat(net.flatten(x), net.flatten(x)))

    network = Net(forward, linear=nn.Linear(96, 2, bits=3), cat=nn.Concat(1), flatten=nn.Flatten()).calibrate([x])
    with pytest.raises(nn.LayerError, match="a flattened image of several pixels can be multiplied"):
        nn.compile(network, x)
    network = Net(
        lambda net, x: net.add(net.first(net.flatten(x)), net.flatten(x)),
        first=nn.Linear(48, 48, bits=3),
        add=nn.Add(),
        flatten=nn.Flatten(),
    ).calibrate([x])
    with pytest.raises(nn.LayerError, match="Add 'add' adds a flattened image to what never was one"):
        nn.compile(network, x)


def test_other_refusals() -> None:
    x = np.zeros((1, 3, 8, 8), np.float32)
    conv = nn.Conv2d(3, 4, 3, bits=3)
    conv.quantizer = nn.Quantizer(3, 1.0)
    with pytest.raises(nn.LayerError, match="Conv2d is dynamic, and a compiled network needs fixed ranges"):
        nn.compile(nn.Conv2d(3, 4, 3, bits=3, dynamic=True), x)
    with pytest.raises(nn.LayerError, match="nothing to compile"):
        nn.compile(nn.Identity(), x)
    with pytest.raises(nn.LayerError, match=r"layer '1': .*expected input\[1, 4, 6, 6\] to have 5 channels, but got 4 channels instead"):
        nn.compile(nn.Sequential(conv, nn.Conv2d(5, 4, 3, bits=3)), x)
    with pytest.raises(nn.LayerError, match="layer '0': expected 4D input"):
        nn.compile(nn.Sequential(nn.BatchNorm2d(3)), (1, 3))
    with pytest.raises(nn.LayerError, match=r"example has shape \[1, 3, 8, 8, 1\]: expected \(N, C, H, W\)"):
        nn.compile(conv, x[..., None])
    with pytest.raises(nn.LayerError, match=r"input to Conv2d, but got input of size: \[3, 8, 8\]"):
        nn.compile(conv, x[0])
    with pytest.raises(ValueError, match="mode='exact': expected 'fp32' or 'threshold'"):
        nn.compile(conv, x, mode="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hint='fast': expected 'latency' or 'throughput'"):
        nn.compile(conv, x, hint="fast")  # type: ignore[arg-type]
    compiled = nn.compile(conv, x)
    with pytest.raises(
        nn.LayerError, match=r"the network was compiled for input of shape \[N, 3, 8, 8\], but got \[1, 3, 9, 8\]: compile it again"
    ):
        compiled(np.zeros((1, 3, 9, 8), np.float32))
    with pytest.raises(TypeError, match="x has dtype uint8: expected floats"):
        compiled(x.astype(np.uint8))
    x[0, 1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="the input holds a NaN or an infinity"):
        compiled(x)
    assert compiled(x[:0]).shape == (0, 4, 6, 6)
