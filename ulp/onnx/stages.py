"""What a loaded network runs in turn: integer stages, one plan each; islands, one session of onnxruntime each; operators of numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ulp.nn.compiled import CompiledNetwork

from .limits import Limits
from .model import Array, Node, OnnxError
from .operators import OPERATORS
from .session import Session


@dataclass(frozen=True)
class Codes:
    """Integers of one byte at a plan's end: its codes plus `low`, in this dtype."""

    dtype: np.dtype[Any]
    low: int

    @classmethod
    def whole(cls, dtype: np.dtype[Any]) -> Codes:
        """Of all integers of the type."""
        return cls(dtype, int(np.iinfo(dtype).min))

    def of(self, integers: Array) -> Array:
        """The codes of integers. Sums and differences wrap, so that signed and unsigned ones need no other type in between."""
        codes = integers.view(np.uint8)
        return codes - np.uint8(self.low % 256) if self.low else codes

    def integers(self, codes: Array) -> Array:
        """The integers of codes."""
        return (codes + np.uint8(self.low % 256) if self.low else codes).view(self.dtype)


@dataclass(frozen=True)
class IntegerStage:
    """One plan: from `sources` to `results`, float32 (N, ...) each, or integers of one byte, for those that `codes` has."""

    sources: tuple[str, ...]
    results: tuple[str, ...]
    compiled: CompiledNetwork
    codes: Mapping[str, Codes] = field(default_factory=dict)

    def __call__(self, *arrays: Any) -> list[Array]:
        """The results, for arrays of the sources. Raises what `CompiledNetwork` does."""
        return self.by(self.compiled, arrays)

    def by(self, plan: Callable[..., Any], arrays: Sequence[Any]) -> list[Array]:
        """The results by a plan that computes what `compiled` does."""
        if not self.codes:
            return list(plan(*arrays))
        results = plan(*self.fed(arrays))
        return [self.codes[name].integers(y) if name in self.codes else y for name, y in zip(self.results, results, strict=True)]

    def fed(self, arrays: Sequence[Any]) -> list[Any]:
        """The arrays as the plan takes them."""
        return [self.codes[name].of(x) if name in self.codes else x for name, x in zip(self.sources, arrays, strict=True)]

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors that have to be there before."""
        return self.sources

    @property
    def makes(self) -> tuple[str, ...]:
        """The tensors that are there behind it."""
        return self.results


@dataclass(frozen=True)
class FloatStage:
    """One node that runs by an operator of numpy, and why it is not integer."""

    node: Node
    reason: str

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors that have to be there before."""
        return self.node.reads

    @property
    def makes(self) -> tuple[str, ...]:
        """The tensors that are there behind it."""
        return tuple(name for name in self.node.outputs if name)


@dataclass(frozen=True)
class IslandStage:
    """Neighbouring float nodes that onnxruntime runs: from the tensors `reads` to the tensors `makes`."""

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    session: Session


Stage: TypeAlias = IntegerStage | FloatStage | IslandStage


@dataclass(frozen=True)
class LayerRow:
    """One row of the table of layers: a node of the model and how it runs. bits: of its weights and of its input, 0 for floats."""

    name: str
    op_type: str
    integer: bool
    reason: str
    """Why it runs in floats; "" where it does not"""
    bits: tuple[int, int] = (0, 0)
    shape: tuple[int, ...] = ()
    """Of its result, for one image; () where that is not known"""
    nbytes: int = 0
    """Of its packed weights"""

    # The columns of the table, which has the names that profiles have, too.

    @property
    def layer(self) -> str:
        """`name`."""
        return self.name

    @property
    def type(self) -> str:
        """`op_type`."""
        return self.op_type

    @property
    def runs_in(self) -> str:
        """ "integers" or "floats"."""
        return "integers" if self.integer else "floats"

    @property
    def why(self) -> str:
        """`reason`."""
        return self.reason


def bound(node: Node, opset: int, limits: Limits) -> Callable[..., tuple[Array, ...]]:
    """The node's operator as a function of its inputs. OnnxError, naming the node, where there is none or it refuses."""
    if node.problem:
        raise OnnxError(f"{node}: {node.problem}")
    operator = OPERATORS.get(node.op_type)
    if operator is None:
        known = ", ".join(sorted(OPERATORS))
        raise OnnxError(
            f"{node}: without onnxruntime there is no operator {node.op_type}: pip install onnxruntime, which floats='numpy' does not use. "
            f"Those that there are: {known}, and QLinear operators"
        )
    try:
        function = operator.bind(node.attributes, opset, inputs=len(node.inputs), outputs=max(1, len(node.outputs)), limits=limits)
    except OnnxError as error:
        raise OnnxError(f"{node}: {error}") from error

    def run(*arrays: Array | None) -> tuple[Array, ...]:
        try:
            return function(*arrays)
        except OnnxError as error:
            raise OnnxError(f"{node}: {error}") from error

    return run
