"""Models changed at random, field by field: what fuzzing `ulp.load` begins with.

`python tests/onnx_mutate.py --seconds 600 [MODEL...]` fuzzes with the seeds below and those models, and ends with the first file that
`ulp.load` does not answer with a network or an OnnxError; it is written to --out.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import ulp
from ulp.onnx import Limits, OnnxError
from ulp.onnx.operators import OPERATORS

MIB = 2**20
# So small that what slips through is seen as a time or a memory that it should not take.
LIMITS = Limits(file_bytes=MIB, fields=50_000, nodes=500, tensor_bytes=4 * MIB, constant_bytes=16 * MIB)

_INTS = [0, 1, 2, 3, 4, 7, 8, 16, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -1, -2, -3, -8, -(2**31), -(2**63)]
_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-45, 1e-38, 1e38, 3.4e38, float("inf"), -float("inf"), float("nan")]
_TEXTS = ["", "..", "/etc/passwd", "x", "\x00", "ROUND", "FLOOR", "SAME_UPPER", "ai.onnx", "qonnx.custom_op.general"]
# Those of the table, and others that the loader knows of.
_OPERATORS = sorted({*OPERATORS, "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool", "QLinearSigmoid", "If"})


def _constants(**arrays: Any) -> list[Any]:
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def _model(nodes: list[Any], constants: list[Any], shape: tuple[int, ...], output: str) -> Any:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("onnx.brevitas", 1), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _weights(*shape: int) -> Any:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def qdq_seed() -> Any:
    """Convolution, pooling and a linear layer between QuantizeLinear and DequantizeLinear, 4-bit weights, softmax."""
    n = helper.make_node
    nodes = [
        n("QuantizeLinear", ["x", "s", "z"], ["q0"]),
        n("DequantizeLinear", ["q0", "s", "z"], ["d0"]),
        n("DequantizeLinear", ["w", "ws"], ["wf"], axis=0),
        n("Conv", ["d0", "wf", "b"], ["c0"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        n("Relu", ["c0"], ["r0"]),
        n("QuantizeLinear", ["r0", "s", "z"], ["q1"]),
        n("DequantizeLinear", ["q1", "s", "z"], ["d1"]),
        n("MaxPool", ["d1"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
        n("Flatten", ["p0"], ["f0"]),
        n("DequantizeLinear", ["v", "s"], ["vf"]),
        n("Gemm", ["f0", "vf"], ["g0"], transB=1),
        n("Softmax", ["g0"], ["y"]),
    ]
    narrow = helper.make_tensor("w", TensorProto.INT4, [3, 2, 3, 3], [i % 16 - 8 for i in range(54)])
    arrays = _constants(
        s=np.float32(0.25),
        z=np.uint8(3),
        ws=np.full(3, 0.5, np.float32),
        b=np.zeros(3, np.float32),
        v=np.arange(-24, 24).reshape(4, 12).astype(np.int8),
    )
    return _model(nodes, [narrow, *arrays], (2, 4, 4), "y")


def qonnx_seed() -> Any:
    """A residual block of Quant and BipolarQuant, batch normalisation, Trunc behind an average."""
    n, own = helper.make_node, {"domain": "onnx.brevitas"}
    nodes = [
        n("Quant", ["x", "s", "z", "bits"], ["a"], **own, signed=1, narrow=0, rounding_mode="ROUND"),
        n("Quant", ["w", "ws", "z", "bits"], ["wq"], **own, signed=1, narrow=1, rounding_mode="ROUND"),
        n("Conv", ["a", "wq"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        n("BatchNormalization", ["c", "one", "one", "zero", "one"], ["n"]),
        n("Add", ["n", "a"], ["t"]),
        n("Relu", ["t"], ["r"]),
        n("Quant", ["r", "s", "z", "bits"], ["e"], **own, signed=0, narrow=0, rounding_mode="FLOOR"),
        n("BipolarQuant", ["v", "s"], ["vq"], **own),
        n("GlobalAveragePool", ["e"], ["m"]),
        n("Trunc", ["m", "s", "z", "eight", "bits"], ["u"], **own, rounding_mode="FLOOR"),
        n("Reshape", ["u", "shape"], ["f"]),
        n("MatMul", ["f", "vq"], ["y"]),
    ]
    arrays = _constants(
        s=np.float32(0.25),
        z=np.float32(0),
        bits=np.float32(4),
        eight=np.float32(8),
        ws=np.full((2, 1, 1, 1), 0.25, np.float32),
        w=_weights(2, 2, 3, 3),
        v=_weights(2, 3),
        one=np.ones(2, np.float32),
        zero=np.zeros(2, np.float32),
        shape=np.array([0, -1]),
    )
    return _model(nodes, arrays, (2, 4, 4), "y")


def threshold_seed() -> Any:
    """FINN's thresholds, channels last, a rising activation, scales per channel, weights in blocks, and what onnxruntime fuses."""
    n, own, last = helper.make_node, {"domain": "onnx.brevitas"}, {"domain": "qonnx.custom_op.channels_last"}
    micro = {"domain": "com.microsoft"}
    nodes = [
        n("MultiThreshold", ["x", "t"], ["m"], **own, out_scale=0.5, out_bias=-1.0, out_dtype="INT4", data_layout="NHWC"),
        n("Quant", ["w", "s", "z", "bits"], ["wq"], **own, signed=1, narrow=1, rounding_mode="HALF_UP"),
        n("Conv", ["m", "wq"], ["c"], **last, kernel_shape=[1, 1]),
        n("LeakyRelu", ["c"], ["l"], alpha=0.125),
        n("Quant", ["l", "s", "z", "bits"], ["e"], **own, signed=1, narrow=0, rounding_mode="CEIL"),
        n("Transpose", ["e"], ["f"], perm=[0, 3, 1, 2]),
        n("Quant", ["f", "each", "z", "bits"], ["g"], **own, signed=1, narrow=0, rounding_mode="ROUND"),
        n("Conv", ["g", "v"], ["h"], group=4, kernel_shape=[2, 2]),
        n("Flatten", ["h"], ["i"]),
        n("MatMulNBits", ["i", "b", "bs", "bz"], ["j"], **micro, K=4, N=3, bits=4, block_size=16),
        n("DynamicQuantizeMatMul", ["j", "d", "s", "dz"], ["k"], **micro),
        n("FloatQuant", ["k", "s", "four", "three"], ["y"], **own),
    ]
    arrays = _constants(
        t=np.array([[-1, 0, 0.5]], np.float32),
        s=np.float32(0.25),
        z=np.float32(0),
        bits=np.float32(4),
        w=_weights(4, 1, 1, 2),
        each=np.array([0.25, 0.5, 1, 2], np.float32).reshape(1, 4, 1, 1),
        v=np.ones((4, 1, 2, 2), np.float32),
        b=np.arange(24, dtype=np.uint8).reshape(3, 1, 8),
        bs=np.full(3, 0.125, np.float32),
        bz=np.full(3, 8, np.uint8),
        d=np.arange(6).reshape(3, 2).astype(np.int8),
        dz=np.int8(1),
        four=np.float32(4),
        three=np.float32(3),
    )
    return _model(nodes, arrays, (2, 2, 2), "y")


def float_seed() -> Any:
    """Operators of numpy, most of which have inputs or attributes that say a size."""
    n = helper.make_node
    nodes = [
        n("Pad", ["x", "pads"], ["p"]),
        n("Resize", ["p", "", "scales"], ["r"], mode="linear"),
        n("AveragePool", ["r"], ["a"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        n("ConvTranspose", ["a", "w"], ["t"], strides=[2, 2]),
        n("Slice", ["t", "from", "to", "axes"], ["s"]),
        n("Split", ["s"], ["s0", "s1"], axis=1, num_outputs=2),
        n("Concat", ["s1", "s0"], ["c"], axis=1),
        n("DepthToSpace", ["c"], ["d"], blocksize=1),
        n("Shape", ["d"], ["sh"]),
        n("Gather", ["sh", "index"], ["g"]),
        n("ConstantOfShape", ["g"], ["k"]),
        n("Unsqueeze", ["k", "one"], ["ku"]),
        n("Tile", ["d", "repeats"], ["l"]),
        n("Expand", ["l", "one"], ["e"]),
        n("Transpose", ["e"], ["tr"], perm=[0, 2, 3, 1]),
        n("ReduceMean", ["tr", "axes"], ["rm"], keepdims=0),
        n("DynamicQuantizeLinear", ["rm"], ["dq", "dqs", "dqz"]),
        n("MatMulInteger", ["dq", "mi", "dqz"], ["mm"]),
        n("Cast", ["mm"], ["mf"], to=1),
        n("Add", ["mf", "ku"], ["ad"]),
        n("Softmax", ["ad"], ["y"]),
    ]
    arrays = _constants(
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        scales=np.array([1, 1, 1.5, 2], np.float32),
        w=_weights(2, 4, 2, 2),
        axes=np.array([2, 3]),
        index=np.array([0]),
        repeats=np.array([1, 1, 1, 2]),
        one=np.array([1]),
        mi=np.arange(12).reshape(4, 3).astype(np.int8),
    )
    arrays += _constants(**{"from": np.array([0, 0]), "to": np.array([4, 4])})
    return _model(nodes, arrays, (2, 4, 4), "y")


def qlinear_seed() -> Any:
    """Operators from codes to codes, ONNX's and onnxruntime's own, and integers whose scales are computed."""
    n, own = helper.make_node, {"domain": "com.microsoft"}
    q = ["s", "z"]
    nodes = [
        n("QuantizeLinear", ["x", *q], ["a"]),
        n("QLinearConv", ["a", *q, "w", "ws", "wz", *q, "b"], ["c"], pads=[1, 1, 1, 1]),
        n("QLinearAdd", ["c", *q, "a", *q, *q], ["d"], **own),
        n("QLinearConcat", [*q, "d", *q, "c", *q], ["e"], **own, axis=1),
        n("QLinearGlobalAveragePool", ["e", *q, *q], ["g"], **own),
        n("Flatten", ["g"], ["f"]),
        n("QGemm", ["f", *q, "m", "s", "mz", "", *q], ["h"], **own),
        n("QLinearMatMul", ["h", *q, "v", "s", "mz", *q], ["i"]),
        n("DequantizeLinear", ["i", *q], ["j"]),
        n("DynamicQuantizeLinear", ["j"], ["k", "ks", "kz"]),
        n("DequantizeLinear", ["k", "ks", "kz"], ["l"]),
        n("LeakyRelu", ["l"], ["y"]),
    ]
    arrays = _constants(
        s=np.float32(0.25),
        z=np.uint8(3),
        w=np.arange(-18, 18).reshape(2, 2, 3, 3).astype(np.int8),
        ws=np.array([0.5, 0.25], np.float32),
        wz=np.zeros(2, np.int8),
        b=np.array([5, -5], np.int32),
        m=np.arange(12).reshape(4, 3).astype(np.int8),
        mz=np.int8(0),
        v=np.arange(9).reshape(3, 3).astype(np.int8),
    )
    return _model(nodes, arrays, (2, 4, 4), "y")


def seeds() -> list[Any]:
    """Small models that load and run."""
    return [qdq_seed(), qonnx_seed(), qlinear_seed(), float_seed(), threshold_seed()]


def mutate(model: Any, rng: random.Random) -> bytes:
    """The model's bytes after one to four changes; now and then bytes are changed, too."""
    changed = type(model)()
    changed.CopyFrom(model)
    for _ in range(rng.randint(1, 4)):
        _change(changed, rng)
    data = bytearray(changed.SerializeToString())
    if rng.random() < 0.1 and data:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.choice([len(data), rng.randrange(len(data) + 1)]) :]
    return bytes(data)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if _is_repeated(field, value) else [value]:
                yield from _messages(child)


def _is_repeated(field: Any, value: Any) -> bool:
    return not isinstance(value, (int, float, str, bytes)) and (field.message_type is None or hasattr(value, "add"))


def _change(model: Any, rng: random.Random) -> None:
    """One change of one field anywhere."""
    if rng.random() < 0.15 and model.graph.node:
        rng.choice(model.graph.node).op_type = rng.choice(_OPERATORS)
        return
    messages = list(_messages(model))
    message = rng.choice(messages)
    fields = message.ListFields() if rng.random() < 0.9 else [(f, getattr(message, f.name)) for f in message.DESCRIPTOR.fields]
    if not fields:
        return
    field, value = rng.choice(fields)
    with contextlib.suppress(ValueError, TypeError, AttributeError):  # a value that the field does not take: no change
        if _is_repeated(field, value):
            _change_list(message, field, value, messages, rng)
        elif field.message_type is None:
            setattr(message, field.name, _scalar(field, value, messages, rng))
        elif rng.random() < 0.3:
            message.ClearField(field.name)
        else:
            value.CopyFrom(_copy(rng.choice([value, *(m for m in messages if m.DESCRIPTOR is field.message_type)])))


def _change_list(message: Any, field: Any, values: Any, messages: list[Any], rng: random.Random) -> None:
    what = rng.randrange(5)
    if what == 0 and values:
        del values[rng.randrange(len(values))]
    elif what == 1 and values:
        i, j = rng.randrange(len(values)), rng.randrange(len(values))
        items = list(values)
        items[i], items[j] = items[j], items[i]
        copies = [_copy(item) for item in items]
        del values[:]
        values.extend(copies)
    elif what == 2 and rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is None:
        if values and what == 3:
            values[rng.randrange(len(values))] = _scalar(field, rng.choice(values), messages, rng)
        else:
            values.append(_scalar(field, rng.choice(values) if values else 0, messages, rng))
    else:
        like = [m for m in messages if m.DESCRIPTOR is field.message_type]
        values.append(_copy(rng.choice(like)) if like else onnx.NodeProto())  # refused where it is none


def _copy(item: Any) -> Any:
    if isinstance(item, (int, float, str, bytes)):
        return item
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _scalar(field: Any, value: Any, messages: list[Any], rng: random.Random) -> Any:
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
        names = [name for m in messages if isinstance(m, onnx.NodeProto) for name in (*m.input, *m.output, m.op_type)]
        text = rng.choice([*_TEXTS, *names])
        if field.type == field.TYPE_STRING:
            return text
        data = bytearray(value or b"")
        if data and rng.random() < 0.5:
            data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255])
            return bytes(data)
        return rng.choice(
            [bytes(data[: rng.randrange(len(data) + 1)]), bytes(data) + b"\0", text.encode(), np.float32(rng.choice(_FLOATS)).tobytes()]
        )
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice([*_FLOATS, 2 * (value or 0), -(value or 0)])
    if field.type == field.TYPE_ENUM:
        return rng.choice([v.number for v in field.enum_type.values])
    return rng.choice([*_INTS, (value or 0) + 1, (value or 0) - 1])


def attempt(data: bytes) -> str:
    """Load these bytes, and run what comes of them; how it ended. Raises whatever nobody should see."""
    try:
        # Not by onnxruntime, whose own loader ends processes for some of these files.
        network = ulp.load(data, tune=False, limits=LIMITS, floats="numpy")
    except OnnxError:
        return "refused"
    inputs = []
    for port in network.inputs:
        shape = [side if isinstance(side, int) else 2 for side in port.shape or (2, 2, 4, 4)]
        inputs.append(np.ones(shape, port.dtype))
    try:
        network(*inputs)
    except ValueError:  # shapes that float operators refuse, values that are not finite
        return "refused to run"
    str(network)
    return "ran"


def fuzz(models: list[Any], seconds: float, seed: int, out: Path) -> int:
    """Attempts for so many seconds, of at most 20 each; 1 at the first that ends otherwise than it should, which is written to `out`."""
    rng = random.Random(seed)
    ends: dict[str, int] = {}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutate(rng.choice(models), rng)
        out.write_bytes(data)  # beforehand: the process may not survive
        signal.alarm(20)
        try:
            end = attempt(data)
        except Exception:
            traceback.print_exc()
            return 1
        signal.alarm(0)
        ends[end] = ends.get(end, 0) + 1
    out.unlink(missing_ok=True)
    sys.stdout.write(f"{sum(ends.values())} models in {seconds:.0f} s: {ends}\n")
    return 0


def main() -> int:
    """The command line."""
    import resource  # of POSIX only

    parser = argparse.ArgumentParser(description="Fuzz ulp.load.")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("crash.onnx"))
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    models = seeds() + [onnx.load(path) for path in args.models]
    return fuzz(models, args.seconds, args.seed, args.out)


if __name__ == "__main__":
    sys.exit(main())
