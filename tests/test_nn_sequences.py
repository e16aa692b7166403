"""Sequences: Conv1d, pooling, and linear layers on rows, against the same layers for images of one row and for matrices."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from reference import Array

from ulp import nn

F32 = np.float32


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


@pytest.mark.parametrize("seed", range(16))
def test_conv1d_is_a_convolution_of_one_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 2, 5]))
    inputs, outputs, kernel = groups * int(rng.integers(1, 5)), groups * int(rng.integers(1, 5)), int(rng.integers(1, 5))
    stride, dilation, padding = int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(0, 4))
    mode = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
    options: dict[str, Any] = {"bits": int(rng.integers(2, 9)), "act_bits": int(rng.integers(2, 9)), "act_asymmetric": bool(seed % 2)}
    line = nn.Conv1d(inputs, outputs, kernel, stride, padding, dilation, groups, padding_mode=mode, **options)
    image = nn.Conv2d(inputs, outputs, (1, kernel), (1, stride), (0, padding), (1, dilation), groups, padding_mode=mode, **options)
    x = normal(3, inputs, int(rng.integers(12, 40)), seed=seed)
    image.load_state_dict({key: value[:, :, None] if key == "weight" else value for key, value in line.state_dict().items()})
    image.calibrate([x[:, :, None]], progress=False)
    line.calibrate([x], progress=False)
    assert line.quantizer == image.quantizer
    assert line.quantizer is not None
    want = image(x[:, :, None])[:, :, 0]
    np.testing.assert_array_equal(line(x), want)
    np.testing.assert_array_equal(line(x[0]), want[0])
    np.testing.assert_array_equal(nn.compile(line, x, tune=False)(x), want)
    again = nn.Conv1d.from_quantized(
        line.weight_int,
        line.weight_scale,
        line.bias,
        line.quantizer.scale,
        line.quantizer.zero,
        bits=options["bits"],
        act_bits=options["act_bits"],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )
    np.testing.assert_array_equal(again(x), want)


@pytest.mark.parametrize(
    ("line", "image"),
    [
        (nn.MaxPool1d(3, 2, 1, ceil_mode=True), nn.MaxPool2d((1, 3), (1, 2), (0, 1), ceil_mode=True)),
        (nn.MaxPool1d(2, dilation=2), nn.MaxPool2d((1, 2), dilation=(1, 2))),
        (nn.AvgPool1d(3, 2, 1, count_include_pad=False), nn.AvgPool2d((1, 3), (1, 2), (0, 1), count_include_pad=False)),
        (nn.AdaptiveAvgPool1d(4), nn.AdaptiveAvgPool2d((1, 4))),
    ],
)
def test_pooling_is_that_of_one_row(line: Any, image: Any) -> None:
    x = normal(3, 5, 21)
    line.calibrate([x], progress=False)
    image.calibrate([x[:, :, None]], progress=False)
    want = image(x[:, :, None])[:, :, 0]
    np.testing.assert_array_equal(line(x), want)
    np.testing.assert_array_equal(line(x[1]), want[1])
    network = nn.Sequential(nn.Conv1d(5, 5, 1, bits=4), line, nn.Conv1d(5, 4, 1, bits=4)).calibrate([x], progress=False)
    np.testing.assert_array_equal(nn.compile(network, x, tune=False)(x), network(x))
    for wrong in (x[:, :, None], x[0, 0]):
        with pytest.raises(nn.LayerError, match="Expected 2D or 3D input"):
            line(wrong)
    with pytest.raises(nn.LayerError, match="Expected 2D or 3D input"):
        nn.compile(line, x[:, :, None], tune=False)


class Block(nn.Module):
    """What is left of a transformer's block without attention, on (N, T, C)."""

    def __init__(self) -> None:
        self.up = nn.Linear(12, 31, bits=4)
        self.act = nn.GELU()
        self.down = nn.Linear(31, 12, bits=3)
        self.add = nn.Add()
        self.last = nn.Linear(12, 5, bits=4)

    def forward(self, x: Any) -> Any:
        return self.last(self.add(self.down(self.act(self.up(x))), x))


@pytest.mark.parametrize("length", [1, 2, 19, 64])
def test_linear_layers_on_rows(length: int) -> None:
    x = normal(3, length, 12)
    network = Block().calibrate([x], progress=False)
    compiled = nn.compile(network, x, tune=False)
    np.testing.assert_array_equal(compiled(x), network(x))
    assert compiled.input_shape == (length, 12)
    assert compiled.output_shapes == ((length, 5),)
    assert "rearrange" not in {row.step for row in compiled.profile(x)}
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(compiled))(x), network(x))


def test_sequences_turn_into_rows_and_vectors() -> None:
    x = normal(3, 4, 20)
    layers = [nn.Conv1d(4, 6, 3, padding=1, stride=2, bits=4), nn.ReLU(), nn.Conv1d(6, 5, 2, bits=3), nn.PReLU(5), nn.Linear(9, 7, bits=4)]
    network = nn.Sequential(*layers, nn.PReLU(5), nn.Conv1d(5, 3, 2, bits=4), nn.Flatten(), nn.Linear(18, 3, bits=4))
    network.calibrate([x], progress=False)
    compiled = nn.compile(network, x, tune=False)
    np.testing.assert_array_equal(compiled(x), network(x))
    conv, quantize = nn.Conv1d(4, 6, 3, bits=4), nn.Quantize(4)
    codes = nn.Sequential(conv, quantize).calibrate([x], progress=False)
    compiled = nn.compile(codes, x, tune=False, codes_in=True, codes_out=True)
    assert conv.quantizer is not None
    assert quantize.quantizer is not None
    np.testing.assert_array_equal(quantize.quantizer.values(compiled(conv.quantizer.codes(x))), codes(x))


def test_concatenations_of_sequences() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            self.a, self.b, self.last = nn.Conv1d(4, 5, 1, bits=4), nn.Conv1d(4, 3, 1, bits=4), nn.Conv1d(8, 2, 3, bits=4)
            self.concat = nn.Concat(1)

        def forward(self, x: Any) -> Any:
            return self.last(self.concat(self.a(x), self.b(x)))

    x = normal(2, 4, 9)
    network = Network().calibrate([x], progress=False)
    np.testing.assert_array_equal(nn.compile(network, x, tune=False)(x), network(x))


def test_what_does_not_fit() -> None:
    conv = nn.Conv1d(4, 6, 3, bits=4)
    assert repr(conv) == "Conv1d(4, 6, kernel_size=(3,), stride=(1,), bits=4, act_bits=4)"
    with pytest.raises(nn.LayerError, match=r"input to Conv1d, but got input of size: \[1, 4, 1, 9\]"):
        conv(normal(1, 4, 1, 9))
    with pytest.raises(nn.LayerError, match="Kernel size can't be greater"):
        conv(normal(1, 4, 2))
    with pytest.raises(ValueError, match=r"kernel_size=\(1, 3\): expected an int"):
        nn.Conv1d(4, 6, (1, 3), bits=4)
    image = nn.Conv2d(4, 6, 1, bits=4).calibrate([normal(1, 4, 5, 5)], progress=False)
    with pytest.raises(nn.LayerError, match="input to Conv2d"):
        nn.compile(image, (1, 4, 5))
    with pytest.raises(nn.LayerError, match="input to Conv1d"):
        nn.compile(conv.calibrate([normal(1, 4, 9)], progress=False), (1, 4, 5, 5))
