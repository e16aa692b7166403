"""A model in the loader's own types: nodes, constants, ports. Nothing refers to protobuf from here on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Payloads: TypeAlias = dict[bytes, memoryview]


class OnnxError(ValueError):
    """A file that is damaged or not supported. The message names the node, what it holds, what is allowed, and what would help."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. An input or output that is left out is "".

    name: never empty; where the file has none, the operator and the node's position. attributes: int, float, str, arrays, tuples of them.
    captured: tensors that graphs among its attributes read. proto: the file's own NodeProto, None for nodes that the file has not.
    problem: why neither rules nor operators of numpy know what the node means; "" where they may.
    """

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    captured: tuple[str, ...] = ()
    proto: Any = None
    problem: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """All tensors that have to be there before it runs."""
        return (*(name for name in self.inputs if name), *self.captured)

    def __str__(self) -> str:
        return f"{self.op_type} {self.name!r}"

    def input(self, i: int) -> str:
        """The name of input i, "" where it is left out."""
        return self.inputs[i] if i < len(self.inputs) else ""


@dataclass(frozen=True)
class Port:
    """An input or output of the model. A side of the shape that the file leaves open is a name or None; no shape at all: None.

    dtype: of the caller's arrays; object for text, and for what is no tensor (sequences, optional values). float16 is computed in float32.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    @property
    def computed(self) -> np.dtype[Any]:
        """The type in which the model computes with the tensor."""
        return np.dtype(np.float32) if self.dtype == np.float16 else self.dtype


@dataclass
class Model:
    """A checked model: nodes in an order in which they can run, every name made once and before it is read.

    constants: initialisers and the results of Constant nodes. Integers of 2 and 4 bits are int8 or uint8 there, and `bits` has their width.
    protos: these as the file has them, TensorProto or SparseTensorProto, by name; also those of types that no array has, which are not
    among the constants. inexact: names of constants whose arrays have another type. source: the file's ModelProto, functions inlined.
    payloads: raw data of which the protos have keys, see `split`.
    """

    inputs: list[Port]
    outputs: list[Port]
    nodes: list[Node]
    constants: dict[str, Array]
    opset: int
    bits: dict[str, int] = field(default_factory=dict)
    protos: dict[str, Any] = field(default_factory=dict)
    inexact: set[str] = field(default_factory=set)
    source: Any = None
    payloads: Payloads = field(default_factory=dict)

    def proto(self, name: str) -> Any:
        """A constant as the file has it, with all its data; None where there is none."""
        proto = self.protos.get(name)
        return proto if proto is None else whole(proto, self.payloads)


def whole(tensor: Any, payloads: Payloads) -> Any:
    """A TensorProto with its data instead of a key; a SparseTensorProto has none."""
    data = payloads.get(tensor.raw_data) if payloads and hasattr(tensor, "raw_data") else None
    if data is None:
        return tensor
    copy = type(tensor)()
    copy.CopyFrom(tensor)
    copy.raw_data = bytes(data)
    return copy
