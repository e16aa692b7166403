"""Random QDQ models beside onnxruntime, and QONNX ones beside their definition and qonnx' executor.

`PYTHONPATH=.:tests python tests/onnx_random.py qdq 0 10000` goes on for longer than the tests do; so do the kinds qonnx and executor.

All scales are powers of two, biases and slopes small multiples of such, and windows of averages have 2^n pixels, so that float32 is exact:
results have to be the same bits as those of onnxruntime without its optimizations.
"""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnx_models import Writer
from reference import Array

import ulp
from ulp.onnx.limits import Limits
from ulp.onnx.reader import read
from ulp.onnx.stages import bound

Shape = tuple[int, ...]


class Tensor(NamedTuple):
    """Of a model: its name, its shape for one image, and whether a quantizer made it."""

    name: str
    shape: Shape
    quantized: bool


class RandomModel:
    """Layers of images, sequences, rows or vectors, from one input or two; each reads tensors that were made before."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.opset = int(rng.integers(10, 25))
        kind, channels = str(rng.choice(["image", "image", "image", "sequence", "rows", "vector"])), int(rng.integers(1, 9))
        sides = [int(side) for side in rng.integers(4, 10, {"image": 2, "sequence": 1}.get(kind, 0))]
        self.shape = (int(rng.integers(1, 7)), channels) if kind == "rows" else (channels, *sides)
        self.windows = kind in ("image", "sequence")
        self.w = Writer(self.shape, seed, opset=self.opset)
        self.inputs = ["x", "z"][: int(rng.integers(1, 3))]
        self.kinds: dict[str, np.dtype[Any]] = dict.fromkeys(self.inputs, np.dtype(np.float32))
        self.codes: dict[str, str] = {}
        self.made = [Tensor(self.first(name), self.shape, True) for name in self.inputs]
        steps: list[Callable[[], Tensor | None]] = [self.requantize, self.function, self.affine, self.linear, self.move, self.slice]
        steps += [self.add, self.add, self.multiply, self.concat, self.split, self.floats, self.qlinear]
        if self.windows:
            steps += [self.conv, self.conv, self.conv, self.depthwise, self.transposed, self.max_pool, self.average, self.mean]
        if kind == "image":
            steps += [self.resize, self.pad, self.qlinear_conv]
        for _ in range(int(rng.integers(3, 9))):
            made = steps[rng.integers(len(steps))]()
            if made is not None and np.prod(made.shape) < 4096:
                self.made.append(made)

    # Numbers.

    def ints(self, *numbers: int) -> str:
        return self.w.constant(np.array(numbers, np.int64))

    def power(self, low: int, high: int) -> Array:
        return self.power_of(low, high, ())

    def power_of(self, low: int, high: int, shape: Sequence[int]) -> Array:
        return np.asarray(2.0 ** self.rng.integers(low, high, shape), np.float32)

    def any_of(self, count: int, low: int, high: int) -> list[int]:
        return [int(n) for n in self.rng.integers(low, high, count)]

    def first(self, x: str) -> str:
        """What the layers read of an input: of floats, or of integers that only have to be dequantized."""
        how, w = self.rng.integers(6), self.w
        if how > 1:
            return self.quantize(x)
        dtype = (np.uint8, np.int8)[how]
        self.kinds[x] = np.dtype(dtype)
        if self.rng.integers(4) == 0:
            return w.add("Cast", x, to=TensorProto.FLOAT)
        low = np.iinfo(dtype).min
        zero = w.constant(self.rng.integers(low, low + 256, ()).astype(dtype))
        return w.add("DequantizeLinear", x, w.constant(self.power(-4, 1)), zero)

    def quantize(self, x: str) -> str:
        """Behind a quantizer of 8 bits, fewer by a Clip, or 4."""
        w, rng = self.w, self.rng
        s, signed = w.constant(self.power(-4, 1)), bool(rng.integers(2))
        if self.opset >= 21 and rng.integers(3) == 0:
            kind, zero = (TensorProto.INT4, int(rng.integers(-8, 8))) if signed else (TensorProto.UINT4, int(rng.integers(16)))
            w.constants.append(helper.make_tensor(f"c{len(w.constants)}", kind, (), [zero]))
            z = w.constants[-1].name
            return w.add("DequantizeLinear", w.add("QuantizeLinear", x, s, z), s, z)
        dtype = np.int8 if signed else np.uint8
        low = int(np.iinfo(dtype).min)
        zero = int(rng.choice([low, 128 + low, int(rng.integers(low, low + 256))]))
        parameters = [s] if zero == low == 0 and rng.integers(2) else [s, w.constant(dtype(zero))]
        q = w.add("QuantizeLinear", x, *parameters)
        if self.opset >= 12 and rng.integers(4) == 0:
            last = 2 ** int(rng.integers(1, 8)) - 1
            first = max(low, min(zero, low + 255 - last, zero - int(rng.integers(last + 1))))
            q = w.add("Clip", q, w.constant(dtype(first)), w.constant(dtype(first + last)))
        x = w.add("DequantizeLinear", q, *parameters)
        self.codes[x] = q
        self.kinds[q] = np.dtype(dtype)
        return x

    def weights(self, *shape: int, axis: int = 0) -> str:
        """Of 4 or 8 bits, with a scale for all or per output, which may be negative, and a zero point."""
        w, rng = self.w, self.rng
        per_axis = self.opset >= 13 and bool(rng.integers(2))
        sides = (shape[axis],) if per_axis else ()
        scale = np.asarray(2.0 ** rng.integers(-5, -2, sides) * rng.choice([1, 1, 1, -1], sides), np.float32)
        options: dict[str, Any] = {"axis": axis} if per_axis else {}
        low = int(rng.choice([0, -8])) if self.opset >= 21 and rng.integers(4) == 0 else int(rng.choice([0, -128]))
        kind = {0: TensorProto.UINT8, -128: TensorProto.INT8, -8: TensorProto.INT4}[low]
        count, zero = (16, int(rng.integers(-8, 8))) if low == -8 else (256, low + int(rng.choice([128, int(rng.integers(256))])))
        few = rng.integers(3) == 0
        integers = rng.integers(max(low, zero - 3) if few else low, min(low + count, zero + 4) if few else low + count, shape)
        names = [f"c{len(w.constants) + i}" for i in range(2)]
        w.constants.append(helper.make_tensor(names[0], kind, shape, integers.reshape(-1)))
        w.constants.append(helper.make_tensor(names[1], kind, sides, np.full(sides, zero).reshape(-1)))
        return w.add("DequantizeLinear", names[0], w.constant(scale), names[1], **options)

    def bias(self, count: int) -> list[str]:
        return [self.w.constant((self.rng.integers(-64, 64, count) / 16).astype(np.float32))] if self.rng.integers(2) else []

    # What is read and what is made.

    def pick(self, *, quantized: bool = False) -> Tensor:
        """A tensor, the latest ones most often."""
        tensor = self.made[-1 - min(int(self.rng.geometric(0.5)) - 1, len(self.made) - 1)]
        return Tensor(self.quantize(tensor.name), tensor.shape, True) if quantized and not tensor.quantized else tensor

    def image(self, *, quantized: bool = True) -> Tensor | None:
        """A tensor that windows can slide over."""
        tensor = self.pick(quantized=quantized)
        return tensor if len(tensor.shape) == len(self.shape) else None

    def behind(self, y: str, shape: Sequence[int]) -> Tensor:
        """A layer's result, perhaps activated and quantized."""
        how = self.rng.integers(5)
        if how == 0:
            y = self.w.add("Relu", y)
        if how == 1 and self.opset >= 11:
            y = self.w.add("Clip", y, self.w.constant(np.float32(-1)), self.w.constant(np.float32(4)))
        if how == 2:
            y = self.w.add("LeakyRelu", y, alpha=0.25)
        quantized = bool(self.rng.integers(3))
        return Tensor(self.quantize(y) if quantized else y, tuple(shape), quantized)

    # Layers.

    def conv(self, groups: int = 0) -> Tensor | None:
        x = self.image(quantized=bool(self.rng.integers(5)) or groups == -1)
        if x is None:
            return None
        sides, channels = x.shape[1:], x.shape[0]
        outputs = channels * int(self.rng.integers(1, 3)) if groups else int(self.rng.choice([1, 3, 8, 16]))
        groups = channels if groups else 2 if channels % 2 == outputs % 2 == 0 and self.rng.integers(4) == 0 else 1
        kernel = [int(self.rng.integers(1, min(side, 4) + 1)) for side in sides]
        stride, dilation = self.any_of(len(sides), 1, 3), self.any_of(len(sides), 1, 3)
        pads = [int(self.rng.integers(k)) for k in (*kernel, *kernel)]
        total = [side + a + b for side, a, b in zip(sides, pads, pads[len(sides) :], strict=False)]
        out = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(total, kernel, stride, dilation, strict=True)]
        if min(out) < 1:
            return None
        w = self.weights(outputs, channels // groups, *kernel)
        y = self.w.add(
            "Conv", x.name, w, *self.bias(outputs), kernel_shape=kernel, strides=stride, dilations=dilation, pads=pads, group=groups
        )
        return self.behind(y, (outputs, *out))

    def depthwise(self) -> Tensor | None:
        return self.conv(groups=-1)

    def transposed(self) -> Tensor | None:
        x = self.image()
        if x is None:
            return None
        count, outputs = len(x.shape) - 1, int(self.rng.choice([1, 3, 8]))
        kernel, stride = self.any_of(count, 1, 5), self.any_of(count, 1, 4)
        extra, pads = [int(self.rng.integers(s)) for s in stride], [int(self.rng.integers(k)) for k in (*kernel, *kernel)]
        out = [(n - 1) * stride[i] + extra[i] + kernel[i] - pads[i] - pads[i + count] for i, n in enumerate(x.shape[1:])]
        if min(out) < 1:
            return None
        options: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": pads, "output_padding": extra}
        w = self.weights(x.shape[0], outputs, *kernel, axis=1)
        return self.behind(self.w.add("ConvTranspose", x.name, w, *self.bias(outputs), **options), (outputs, *out))

    def linear(self) -> Tensor:
        x, outputs = self.pick(quantized=True), int(self.rng.choice([1, 5, 16]))
        name, shape = x.name, x.shape
        if len(shape) > 1 and self.rng.integers(2):
            name, shape = self.w.add("Flatten", name), (int(np.prod(shape)),)
        if len(shape) == 1 and self.opset >= 11 and self.rng.integers(2):
            return self.behind(self.w.add("Gemm", name, self.weights(outputs, shape[0]), *self.bias(outputs), transB=1), (outputs,))
        y = self.w.add("MatMul", name, self.weights(shape[-1], outputs, axis=1))
        for bias in self.bias(outputs):
            y = self.w.add("Add", y, bias)
        return self.behind(y, (*shape[:-1], outputs))

    def qlinear_conv(self) -> Tensor | None:
        x = self.image(quantized=False)
        if x is None:
            return None
        w, outputs, scales = self.w, int(self.rng.choice([3, 8])), [self.w.constant(self.power(-5, 0)) for _ in range(3)]
        zeros = [w.constant(np.uint8(zero)) for zero in self.any_of(3, 0, 256)]
        weights = w.constant(self.rng.integers(0, 256, (outputs, x.shape[0], 1, 1)).astype(np.uint8))
        bias = [w.constant(self.rng.integers(-500, 500, outputs).astype(np.int32))] if self.rng.integers(2) else []
        codes = w.add("QuantizeLinear", x.name, scales[0], zeros[0])
        y = w.add("QLinearConv", codes, scales[0], zeros[0], weights, scales[1], zeros[1], scales[2], zeros[2], *bias)
        return Tensor(w.add("DequantizeLinear", y, scales[2], zeros[2]), (outputs, *x.shape[1:]), True)

    def integers(self, x: str, dtype: Any) -> list[str]:
        """A tensor behind a QuantizeLinear, with its scale and its zero point."""
        parameters = self.parameters(dtype)
        return [self.w.add("QuantizeLinear", x, *parameters), *parameters]

    def parameters(self, dtype: Any) -> list[str]:
        low = int(np.iinfo(dtype).min)
        return [self.w.constant(self.power(-4, 1)), self.w.constant(self.rng.integers(low, low + 256, ()).astype(dtype))]

    def qlinear(self) -> Tensor:
        """One of onnxruntime's operators on integers."""
        w, x, dtype = self.w, self.pick(), (np.uint8, np.int8)[self.rng.integers(2)]
        ops = ["Add", "Mul", "Concat", "Where", "Sigmoid", "LeakyRelu", "Softmax", "MatMul"]
        ops += ["AveragePool", "GlobalAveragePool"] if len(x.shape) == 3 and x.shape[1] % 2 == x.shape[2] % 2 == 0 else []
        op, shape, domain = str(self.rng.choice(ops)), x.shape, "com.microsoft"
        a, after = self.integers(x.name, dtype), self.parameters(dtype)
        if op in ("Add", "Mul", "Concat", "Where"):
            b = self.integers(self.other(x).name, dtype)
            if op == "Concat":
                y = w.add("QLinearConcat", *after, *a, *b, domain=domain, axis=1)
                shape = (2 * x.shape[0], *x.shape[1:])
            elif op == "Where":
                condition = w.add("Greater", x.name, w.constant(np.float32(0.5)))
                y = w.add("QLinearWhere", condition, *a, *b, *after, domain=domain)
            else:
                y = w.add(f"QLinear{op}", *a, *b, *after, domain=domain)
        elif op == "MatMul":
            outputs = int(self.rng.choice([3, 8]))
            weights = w.constant(self.rng.integers(-128, 128, (shape[-1], outputs)).astype(np.int8))
            b = [weights, w.constant(self.power(-5, -2)), w.constant(np.int8(0))]
            y, shape = w.add("QLinearMatMul", *a, *b, *after), (*shape[:-1], outputs)
        else:
            options: dict[str, Any] = {}
            if op == "LeakyRelu":
                options = {"alpha": 0.25}
            elif op == "Softmax":
                options = {"axis": -1, "opset": 13}
            elif op == "AveragePool":
                options, shape = {"kernel_shape": [2, 2], "strides": [2, 2]}, (shape[0], shape[1] // 2, shape[2] // 2)
            elif op == "GlobalAveragePool":
                options, shape = {"channels_last": 0}, (shape[0], 1, 1)
            y = w.add(f"QLinear{op}", *a, *after, domain=domain, **options)
        self.kinds[y] = np.dtype(dtype)
        made = w.add("DequantizeLinear", y, *after)
        self.codes[made] = y
        return Tensor(made, tuple(shape), True)

    # Pooling and resizing.

    def max_pool(self) -> Tensor | None:
        x = self.image(quantized=False)
        if x is None:
            return None
        kernel = [int(self.rng.integers(1, min(side, 3) + 1)) for side in x.shape[1:]]
        stride, pads = self.any_of(len(kernel), 1, 3), [int(self.rng.integers(k // 2 + 1)) for k in kernel]
        out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[1:], pads, kernel, stride, strict=True)]
        y = self.w.add("MaxPool", x.name, kernel_shape=kernel, strides=stride, pads=pads * 2)
        return Tensor(y, (x.shape[0], *out), x.quantized)

    def average(self) -> Tensor | None:
        x = self.image()
        kernel = [int(k) for k in self.rng.choice([1, 2, 4], len(self.shape) - 1)]
        if x is None or any(k > side for k, side in zip(kernel, x.shape[1:], strict=True)):
            return None
        padded = self.rng.integers(3) == 0
        stride, pads = self.any_of(len(kernel), 1, 3), [k // 2 if padded and k > 1 else 0 for k in kernel]
        out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[1:], pads, kernel, stride, strict=True)]
        options: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": pads * 2, "count_include_pad": int(padded)}
        return self.behind(self.w.add("AveragePool", x.name, **options), (x.shape[0], *out))

    def mean(self) -> Tensor | None:
        x = self.image()
        if x is None:
            return None
        shape, pixels = (x.shape[0], *(1 for _ in x.shape[1:])), int(np.prod(x.shape[1:]))
        if pixels & (pixels - 1):
            return Tensor(self.w.add("GlobalMaxPool", x.name), shape, True)
        return self.behind(self.w.add("GlobalAveragePool", x.name), shape)

    def resize(self) -> Tensor | None:
        x, mode = self.image(), str(self.rng.choice(["nearest", "linear"]))
        if x is None or max(x.shape[1:]) > 12:
            return None
        factors = [int(f) for f in self.rng.choice([1, 2, 2, 4], 2)]
        inputs = [self.w.constant(np.array([1, 1, *factors], np.float32))]
        options = {}
        if self.opset >= 11:
            inputs.insert(0, self.w.constant(np.zeros(0, np.float32)) if self.opset < 13 else "")
            options["coordinate_transformation_mode"] = str(self.rng.choice(["asymmetric", "half_pixel"]))
        y = self.w.add("Resize", x.name, *inputs, mode=mode, **options)
        shape = (x.shape[0], *(side * f for side, f in zip(x.shape[1:], factors, strict=True)))
        return Tensor(y, shape, True) if mode == "nearest" else self.behind(y, shape)

    def pad(self) -> Tensor | None:
        x, (top, left, bottom, right) = self.image(), self.any_of(4, 0, 3)
        if x is None or self.opset < 11 or max(top, bottom) >= x.shape[1] or max(left, right) >= x.shape[2]:
            return None
        sides = self.ints(0, 0, top, left, 0, 0, bottom, right)
        y = self.w.add("Pad", x.name, sides, mode=str(self.rng.choice(["constant", "reflect", "edge"])))
        return Tensor(y, (x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right), True)

    # Elementwise.

    def requantize(self) -> Tensor:
        x = self.pick()
        return Tensor(self.quantize(x.name), x.shape, True)

    def function(self) -> Tensor:
        x, how = self.pick(quantized=True), self.rng.integers(5)
        if how == 4:
            return self.behind(self.w.add("Mul", x.name, self.w.add("Relu", x.name)), x.shape)
        options: dict[str, Any] = [{"alpha": -0.5}, {}, {}, {"alpha": 0.25, "beta": 0.5}][how]
        name = ["LeakyRelu", "Abs", "Neg", "HardSigmoid"][how]
        return self.behind(self.w.add(name, x.name, **options), x.shape)

    def affine(self) -> Tensor:
        x = self.pick()
        shape = (x.shape[0], *(1 for _ in x.shape[1:])) if self.windows else x.shape[-1:]
        shape = () if self.rng.integers(3) == 0 else shape
        y = self.w.add("Mul", x.name, self.w.constant(self.rng.choice([-1, 0.5, 1, 2], shape).astype(np.float32)))
        shift = self.w.constant((self.rng.integers(-16, 16, shape) / 8).astype(np.float32))
        return self.behind(self.w.add(str(self.rng.choice(["Add", "Sub"])), y, shift), x.shape)

    def other(self, x: Tensor) -> Tensor:
        """A tensor of the same shape."""
        same = [tensor for tensor in self.made if tensor.shape == x.shape]
        return same[self.rng.integers(len(same))]

    def add(self) -> Tensor:
        x = self.pick()
        names = [self.quantize(name) if self.rng.integers(2) else name for name in (x.name, self.other(x).name)]
        return self.behind(self.w.add("Add", *names), x.shape)

    def multiply(self) -> Tensor:
        x = self.pick(quantized=True)
        other = self.other(x) if any(tensor.shape == x.shape for tensor in self.made) else x
        y = self.w.add("Mul", x.name, other.name if other.quantized else self.quantize(other.name))
        return Tensor(self.quantize(y), x.shape, True)

    def floats(self) -> Tensor:
        """What runs in floats."""
        x, limit = self.pick(), self.w.constant(np.float32(0.5))
        if self.opset < 11:
            return x
        return Tensor(self.w.add("Where", self.w.add("Greater", x.name, limit), x.name, limit), x.shape, False)

    # Moves.

    def concat(self) -> Tensor:
        x = self.pick()
        axis = int(self.rng.integers(len(x.shape)))
        fits = [t for t in self.made if t.shape[:axis] == x.shape[:axis] and t.shape[axis + 1 :] == x.shape[axis + 1 :]]
        fits = [t for t in fits if len(t.shape) == len(x.shape)] or [x]
        other = fits[self.rng.integers(len(fits))]
        shape = (*x.shape[:axis], x.shape[axis] + other.shape[axis], *x.shape[axis + 1 :])
        return Tensor(self.w.add("Concat", x.name, other.name, axis=axis + 1), shape, False)

    def split(self) -> Tensor | None:
        x = self.pick()
        axis = int(self.rng.integers(len(x.shape)))
        if x.shape[axis] < 2:
            return None
        first = int(self.rng.integers(1, x.shape[axis]))
        sizes, number = [first, x.shape[axis] - first], len(self.w.nodes)
        names = [f"split{number}/{i}" for i in range(2)]
        inputs = [x.name, self.ints(*sizes)] if self.opset >= 13 else [x.name]
        options: dict[str, Any] = {} if self.opset >= 13 else {"split": sizes}
        self.w.nodes.append(helper.make_node("Split", inputs, names, name=f"Split{number}", axis=axis + 1, **options))
        one, two = (
            Tensor(name, (*x.shape[:axis], size, *x.shape[axis + 1 :]), x.quantized) for name, size in zip(names, sizes, strict=True)
        )
        self.made.append(one)
        return two

    def slice(self) -> Tensor | None:
        x = self.pick()
        axis, step = int(self.rng.integers(len(x.shape))), int(self.rng.choice([1, 2, -1]))
        side = x.shape[axis]
        low, high = sorted(self.any_of(2, 0, side + 1))
        if low == high:
            return None
        begin, end = (low, high) if step > 0 else (high - 1, low - 1 if low else -side - 1)
        y = self.w.add("Slice", x.name, *(self.ints(n) for n in (begin, end, axis + 1, step)))
        return Tensor(y, (*x.shape[:axis], len(range(low, high, abs(step))), *x.shape[axis + 1 :]), x.quantized)

    def move(self) -> Tensor | None:
        x, how = self.pick(), self.rng.integers(4)
        if how == 0 and len(x.shape) > 1:
            order = [int(axis) for axis in self.rng.permutation(len(x.shape))]
            y = self.w.add("Transpose", x.name, perm=[0, *(axis + 1 for axis in order)])
            return Tensor(y, tuple(x.shape[axis] for axis in order), x.quantized)
        if len(x.shape) != 3:
            return None
        channels, height, width = x.shape
        if how == 1 and height % 2 == width % 2 == 0:
            return Tensor(self.w.add("SpaceToDepth", x.name, blocksize=2), (channels * 4, height // 2, width // 2), x.quantized)
        if how == 2 and channels % 4 == 0:
            options = {"mode": "CRD"} if self.opset >= 11 and self.rng.integers(2) else {}
            return Tensor(self.w.add("DepthToSpace", x.name, blocksize=2, **options), (channels // 4, height * 2, width * 2), x.quantized)
        if how == 3 and channels % 2 == 0:
            y = self.w.add("Reshape", x.name, self.ints(0, 2, channels // 2, height, width))
            y = self.w.add("Transpose", y, perm=[0, 2, 1, 3, 4])
            return Tensor(self.w.add("Reshape", y, self.ints(0, *x.shape)), x.shape, x.quantized)
        return None

    def model(self) -> tuple[Any, list[str]]:
        """The ModelProto, and its outputs: the last tensor, sometimes with others that nothing reads; sometimes the integers of one."""
        read = {name for node in self.w.nodes for name in node.input}
        others = [t.name for t in self.made[len(self.inputs) : -1] if t.name not in read][:2] if self.rng.integers(4) == 0 else []
        names = list(dict.fromkeys([self.made[-1].name, *others]))
        names = list(dict.fromkeys(self.codes.get(name, name) if self.rng.integers(4) == 0 else name for name in names))
        kinds = {name: helper.np_dtype_to_tensor_dtype(self.kinds.get(name, np.dtype(np.float32))) for name in (*self.inputs, *names)}
        inputs = [helper.make_tensor_value_info(name, kinds[name], ["N", *self.shape]) for name in self.inputs]
        outputs = [helper.make_tensor_value_info(name, kinds[name], None) for name in names]
        return self.w.model(names[0], inputs=inputs, outputs=outputs), names

    def arrays(self) -> dict[str, Array]:
        """Inputs: two images each."""
        made: dict[str, Array] = {}
        for name in self.inputs:
            dtype = self.kinds[name]
            if dtype == np.float32:
                made[name] = (self.rng.integers(-96, 96, (2, *self.shape)) / 16).astype(np.float32)
            else:
                low = -128 if dtype == np.int8 else 0
                made[name] = self.rng.integers(low, low + 256, (2, *self.shape)).astype(dtype)
        return made


class RandomQonnx(RandomModel):
    """With the quantizers of QONNX: any width, rounding and zero point, of one bit, and by thresholds."""

    def first(self, x: str) -> str:
        return self.quantize(x)

    def qlinear_conv(self) -> Tensor | None:
        return None

    def qlinear(self) -> Tensor:
        return self.requantize()

    def quantize(self, x: str) -> str:
        w, rng = self.w, self.rng
        how = rng.integers(8)
        if how == 0:
            return w.add("BipolarQuant", x, w.constant(self.power(-2, 1)), domain=_BREVITAS)
        if how == 1 and self.windows:
            steps = np.sort(rng.integers(-64, 64, (1, int(rng.choice([1, 3, 7, 15])))) / 16, axis=1).astype(np.float32)
            layout = {"data_layout": "NCW"} if len(self.shape) == 2 else {}
            scale, bias = float(self.power(-2, 1)), float(rng.choice([0, -1]))
            return w.add("MultiThreshold", x, w.constant(steps), domain=_GENERAL, out_scale=scale, out_bias=bias, **layout)
        bits, signed = int(rng.integers(1, 9)), int(rng.integers(2))
        narrow = int(rng.integers(2)) if bits > 2 else 0
        zero = 0 if bits < 3 or rng.integers(2) else int(rng.integers(2 ** (bits - 1) - 1))
        mode = str(rng.choice(["ROUND", "ROUND", "ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN"]))
        parameters = [w.constant(np.array(number, np.float32)) for number in (self.power(-4, 1), zero, bits)]
        return w.add("Quant", x, *parameters, domain=_BREVITAS, signed=signed, narrow=narrow, rounding_mode=mode)

    def weights(self, *shape: int, axis: int = 0) -> str:
        w, rng = self.w, self.rng
        bits = int(rng.integers(1, 9))
        sides = [shape[axis] if i == axis else 1 for i in range(len(shape))] if rng.integers(2) else []
        floats, scale = w.constant(rng.standard_normal(shape).astype(np.float32)), w.constant(self.power_of(-4, -1, sides))
        if rng.integers(6) == 0:
            return w.add("BipolarQuant", floats, scale, domain=_BREVITAS)
        parameters = [scale, w.constant(np.float32(0)), w.constant(np.float32(bits))]
        return w.add("Quant", floats, *parameters, domain=_BREVITAS, signed=1, narrow=int(bits > 1), rounding_mode="ROUND")


_BREVITAS, _GENERAL = "onnx.brevitas", "qonnx.custom_op.general"


def expected(model: Any, arrays: dict[str, Array]) -> list[Array]:
    """By onnxruntime, as the file says it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    results: list[Array] = ort.InferenceSession(model.SerializeToString(), options).run(None, arrays)
    return results


def by_definition(model: Any, arrays: dict[str, Array]) -> list[Array]:
    """By the operators of `ulp.onnx`, node by node."""
    known = read(model)
    tensors: dict[str, Any] = {**known.constants, **arrays, "": None}
    for node in known.nodes:
        results = bound(node, known.opset, Limits())(*(tensors[name] for name in node.inputs))
        tensors.update(zip(node.outputs, results, strict=False))
    return [tensors[port.name] for port in model.graph.output]


def by_executor(model: Any, arrays: dict[str, Array]) -> list[Array]:
    """By the package qonnx."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for port in fixed.graph.input:
        port.type.tensor_type.shape.dim[0].dim_value = len(arrays[port.name])
    found = execute_onnx(ModelWrapper(fixed).transform(InferShapes()), arrays)
    return [found[port.name] for port in model.graph.output]


KINDS: dict[str, tuple[type[RandomModel], Callable[..., list[Array]]]] = {
    "qdq": (RandomModel, expected),
    "qonnx": (RandomQonnx, by_definition),
    "executor": (RandomQonnx, by_executor),
}


def attempt(seed: int, kind: str = "qdq") -> tuple[str, Any]:
    """("equal", the share of nodes that are integer), ("optimized", what differs only by onnxruntime's optimizations), ("wrong", where)."""
    make, reference = KINDS[kind]
    random = make(seed)
    model, names = random.model()
    arrays = random.arrays()
    want = reference(model, arrays)
    mode = "threshold" if random.rng.integers(3) == 0 else "requantize"

    def differing(floats: str) -> tuple[Any, str]:
        network = ulp.load(model, tune=False, progress=False, mode=mode, floats=floats)
        result = network(**arrays)
        got = [result] if len(names) == 1 else [result[name] for name in names]
        wrong = next((name for name, a, b in zip(names, got, want, strict=True) if not np.array_equal(a, b)), "")
        return network, wrong

    network, wrong = differing("onnxruntime")
    if not wrong:
        return "equal", sum(row.integer for row in network.layers) / max(1, len(network.layers))
    return ("wrong", f"{wrong} of\n{network}") if differing("numpy")[1] else ("optimized", network)


def main() -> None:
    kind, begin, end = sys.argv[1], *(int(text) for text in sys.argv[2:])
    counts: collections.Counter[str] = collections.Counter()
    start = time.process_time()
    for seed in range(begin, end):
        try:
            outcome, what = attempt(seed, kind)
        except Exception as error:  # which is found out of the seed that is told
            outcome, what = "failed", f"{type(error).__name__}: {error}"
        counts[outcome] += 1
        if outcome in ("wrong", "failed"):
            sys.stdout.write(f"seed {seed}: {what}\n")
            sys.stdout.flush()
    seconds = time.process_time() - start
    sys.stdout.write(f"{dict(counts)} in {seconds:.0f} s of CPU time, onnx {onnx.__version__}, onnxruntime {ort.__version__}\n")


if __name__ == "__main__":
    main()
