"""QONNX's quantizers as ONNX's own: QuantizeLinear, Clip where there are fewer bits than the type has, DequantizeLinear.

Weights are integers of 8 bits, or of 4 where those hold them (opset 21). Activations are bytes, between bounds where they have fewer bits
(QCDQ). Narrower types would be valid, but not run: onnxruntime (1.32) moves codes of 4 bits through operators that it has not for them
(MaxPool), and puts weights of 2 bits, which opset 25 has, into operators for bytes (QLinearConv).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp.onnx import OnnxError

from .protos import constants_of, node_text

_QONNX = ("Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc", "MultiThreshold")
_OPSETS = {8: 13, 4: 21}
_NEAREST = ("ROUND", "HALF_EVEN")


@dataclass(frozen=True)
class _Grid:
    """A Quant's parameters. scale, zero: () or one per index of `axis`."""

    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.int64]
    axis: int
    low: int
    high: int

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def width(self) -> int:
        """Bits of the type that holds the integers: 4 or 8."""
        low = -8 if self.signed else 0
        return 4 if self.low >= low and self.high < low + 16 else 8


def to_qdq(proto: Any, *, odd_zeros_only: bool = False) -> Any:
    """A copy of the model without QONNX's operators. OnnxError, naming the node, for what ONNX's own quantizers cannot express.

    odd_zeros_only: only of quantizers of ulp with an odd zero point, with which Quant rounds values in the middle of two codes otherwise;
        and a zero point in the middle of the codes becomes a sign.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    writer = _Writer(model, odd_zeros_only)
    for node in list(model.graph.node):
        writer.add(node)
    return writer.finished()


class _Writer:
    """The nodes of the model, rewritten one by one."""

    def __init__(self, model: Any, odd_zeros_only: bool) -> None:
        import onnx

        self.onnx = onnx
        self.model = model
        self.odd_zeros_only = odd_zeros_only
        self.constants = constants_of(model)
        self.nodes: list[Any] = []
        self.made: dict[str, Any] = {}
        self.opset = 13

    def add(self, node: Any) -> None:
        """The node, or what takes its place."""
        if node.op_type not in _QONNX or node.domain in ("", "ai.onnx"):
            self.nodes.append(node)
            return
        if self.odd_zeros_only and not self.odd(node):
            self.nodes.append(node)
            return
        source = self.constants.get(node.input[0])
        if node.op_type == "BipolarQuant" and source is not None:
            self.signs(node, source)
            return
        if node.op_type not in ("Quant", "IntQuant"):
            bipolar = node.op_type == "BipolarQuant"
            reason = "it gives -1 and +1 without 0, which no type of ONNX has" if bipolar else "it is an operator of QONNX alone"
            raise OnnxError(f"{node_text(node)} cannot be written as QDQ: {reason}; write format='qonnx'")
        grid = self.grid(node)
        if source is not None:
            self.weights(node, source, grid)
        else:
            self.activation(node.input[0], grid, node.output[0])

    def odd(self, node: Any) -> bool:
        """Whether an unsigned Quant's zero point is odd; the Quant gets a sign where it is that of signed codes."""
        signed = next((a for a in node.attribute if a.name == "signed"), None)
        zero, bits = (self.constants.get(name) for name in node.input[2:4]) if node.op_type == "Quant" else (None, None)
        if signed is None or signed.i or zero is None or bits is None or zero.size != 1 or node.input[0] in self.constants:
            return False
        if bits > 1 and float(zero) == 2.0 ** (float(bits) - 1):
            signed.i = 1
            node.input[2] = self.constant(f"{node.output[0]}/zero", np.zeros((), np.float32))
            return False
        return bool(float(zero) % 2)

    def grid(self, node: Any) -> _Grid:
        """The parameters of a Quant."""
        what = node_text(node)
        values = []
        for i, name in ((1, "scale"), (2, "zero point"), (3, "bit width")):
            array = self.constants.get(node.input[i]) if len(node.input) > i else None
            if array is None:
                raise OnnxError(f"{what} cannot be written as QDQ: its {name} is no constant")
            values.append(array)
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        rounding = attributes.get("rounding_mode", b"ROUND").decode().upper()
        if rounding not in _NEAREST:
            raise OnnxError(f"{what} cannot be written as QDQ: it rounds by {rounding}, ONNX's quantizers to the nearest, ties to even")
        bits = float(values[2].reshape(-1)[0]) if values[2].size == 1 else 0.0
        signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 1))
        if bits not in range(1, 9):
            raise OnnxError(f"{what} cannot be written as QDQ: it has {bits:g} bits, and ONNX's quantizers have whole ones up to 8")
        if bits == 1 and signed:
            raise OnnxError(f"{what} cannot be written as QDQ: one bit with a sign is -1 and +1 without 0; write format='qonnx'")
        low = -(2 ** (int(bits) - 1)) + narrow if signed else 0
        high = 2 ** (int(bits) - 1) - 1 if signed else 2 ** int(bits) - 1 - narrow
        scale, zero = values[0].astype(np.float32), values[1].astype(np.float64)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise OnnxError(f"{what} cannot be written as QDQ: its scales are not all positive numbers")
        if not ((zero == np.rint(zero)) & (zero >= low) & (zero <= high)).all():
            raise OnnxError(f"{what} cannot be written as QDQ: its zero point is no integer from {low} to {high}")
        axis, scale, zero = self.along(what, node, scale, zero)
        return _Grid(scale, zero.astype(np.int64), axis, low, high)

    def along(self, what: str, node: Any, *parameters: npt.NDArray[Any]) -> tuple[int, npt.NDArray[Any], npt.NDArray[Any]]:
        """(axis, scale, zero point), each () or (n,)."""
        if all(p.size == 1 for p in parameters):
            return 0, parameters[0].reshape(()), parameters[1].reshape(())
        shape = np.broadcast_shapes(*(p.shape for p in parameters))
        axes = [i for i, side in enumerate(shape) if side > 1]
        known = self.constants.get(node.input[0])
        if len(axes) != 1:
            raise OnnxError(f"{what} cannot be written as QDQ: its scales lie along {len(axes)} axes of the tensor, {list(shape)}")
        # Counted from the end, as shapes broadcast; from the front, where the tensor's shape is known.
        axis = axes[0] - len(shape) if known is None else known.ndim - len(shape) + axes[0]
        scale, zero = (np.broadcast_to(p, shape).reshape(-1) for p in parameters)
        return axis, scale, zero

    def weights(self, node: Any, values: npt.NDArray[Any], grid: _Grid) -> None:
        """A constant as integers."""
        sides = [1] * values.ndim
        if grid.scale.ndim:
            sides[grid.axis] = -1
        scale, zero = (p.reshape(sides) if p.ndim else p for p in (grid.scale, grid.zero))
        self.integers(node, np.clip(np.rint(values.astype(np.float32) / scale + zero), grid.low, grid.high), grid)

    def signs(self, node: Any, values: npt.NDArray[Any]) -> None:
        """Weights of -1 and +1."""
        scale = self.constants.get(node.input[1])
        if scale is None:
            raise OnnxError(f"{node_text(node)} cannot be written as QDQ: its scale is no constant")
        axis, scale, zero = self.along(node_text(node), node, scale.astype(np.float32), np.zeros((), np.float32))
        self.integers(node, np.where(values >= 0, 1, -1), _Grid(scale, zero.astype(np.int64), axis, -1, 1))

    def integers(self, node: Any, steps: npt.NDArray[Any], grid: _Grid) -> None:
        dtype = np.int8 if grid.signed else np.uint8
        name = self.constant(f"{node.input[0]}/integers", steps.astype(dtype), grid.width)
        scale, zero = self.parameters(grid, node.output[0], grid.width)
        self.node("DequantizeLinear", [name, scale, zero], node.output[0], grid)

    def activation(self, source: str, grid: _Grid, result: str) -> None:
        """A computed tensor by codes."""
        scale, zero = self.parameters(grid, result, 8)
        codes = f"{result}/codes"
        self.node("QuantizeLinear", [source, scale, zero], codes, grid)
        dtype = np.int8 if grid.signed else np.uint8
        whole = (-128, 127) if grid.signed else (0, 255)
        if (grid.low, grid.high) != whole:
            bounds = [
                self.constant(f"{result}/{end}", np.array(bound, dtype), 8) for end, bound in (("low", grid.low), ("high", grid.high))
            ]
            self.node("Clip", [codes, *bounds], f"{result}/clipped")
            codes = f"{result}/clipped"
        self.node("DequantizeLinear", [codes, scale, zero], result, grid)

    def parameters(self, grid: _Grid, result: str, width: int) -> tuple[str, str]:
        """Names of scale and zero point."""
        zero = self.constant(f"{result}/zero_point", grid.zero.astype(np.int8 if grid.signed else np.uint8), width)
        return self.constant(f"{result}/scale", grid.scale), zero

    def constant(self, name: str, array: npt.NDArray[Any], width: int = 0) -> str:
        """An initializer; width: of the type of its integers."""
        self.opset = max(self.opset, _OPSETS.get(width, 13))
        types = self.onnx.TensorProto
        if width == 4:
            kind = types.INT4 if array.dtype == np.int8 else types.UINT4
            self.made[name] = self.onnx.helper.make_tensor(name, kind, array.shape, _packed(array), raw=True)
        else:
            self.made[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def node(self, op_type: str, inputs: Sequence[str], output: str, grid: _Grid | None = None) -> None:
        axis: dict[str, Any] = {"axis": grid.axis} if grid is not None and grid.scale.ndim else {}
        self.nodes.append(self.onnx.helper.make_node(op_type, list(inputs), [output], name=f"{output}/{op_type}", **axis))

    def finished(self) -> Any:
        """The model of these nodes, in the opset that they need."""
        graph = self.model.graph
        nodes = self.nodes
        read = {name for node in nodes for name in node.input} | {port.name for port in graph.output}
        nodes = [node for node in nodes if node.op_type != "Constant" or node.output[0] in read]
        kept = [tensor for tensor in graph.initializer if tensor.name in read and tensor.name not in self.made]
        held = {tensor.name for tensor in graph.initializer}
        ports = [port for port in graph.input if port.name not in held]
        for field, values in (("node", nodes), ("initializer", [*kept, *self.made.values()]), ("input", ports)):
            copies = [type(value).FromString(value.SerializeToString()) for value in values]
            del getattr(graph, field)[:]
            getattr(graph, field).extend(copies)
        used = {node.domain for node in nodes}
        imports = [o for o in self.model.opset_import if o.domain in ("", "ai.onnx") or o.domain in used]
        imports = [type(o).FromString(o.SerializeToString()) for o in imports]
        del self.model.opset_import[:]
        self.model.opset_import.extend(imports)
        return in_opset(self.model, self.opset)


def _packed(array: npt.NDArray[Any]) -> bytes:
    """Integers of 4 bits in bytes, the first in the lower half."""
    codes = array.reshape(-1).view(np.uint8) & 15
    codes = np.pad(codes, (0, len(codes) % 2))
    return bytes((codes[::2] | codes[1::2] << 4).tobytes())


def in_opset(model: Any, wanted: int) -> Any:
    """The model in this version of ONNX's operators at least. OnnxError where the package onnx cannot bring it there."""
    import onnx

    own = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    if wanted > onnx.defs.onnx_opset_version():
        raise OnnxError(
            f"integers of 4 bits need opset {wanted}, and the package onnx {onnx.__version__} knows {onnx.defs.onnx_opset_version()}: "
            f"pip install -U onnx, or write format='qonnx'"
        )
    if own < wanted:
        try:
            model = onnx.version_converter.convert_version(model, wanted)
        except Exception as error:  # of protobuf and of C++, without a class of their own
            raise OnnxError(f"the model of opset {own} cannot be brought to opset {wanted}: {error}") from error
    needed = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    model.ir_version = max(model.ir_version, needed)
    return model
