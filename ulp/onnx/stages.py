"""What a loaded network runs in turn: integer stages, one plan each; islands, one session of onnxruntime each; operators of numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ulp.nn.compiled import CompiledNetwork

from .limits import Limits
from .model import Array, Node, OnnxError
from .operators import OPERATORS
from .session import Session


@dataclass(frozen=True)
class IntegerStage:
    """One plan: from `sources`, float32 (N, ...) each, to `results`, float32 (N, ...)."""

    sources: tuple[str, ...]
    results: tuple[str, ...]
    compiled: CompiledNetwork

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
            f"{node}: without onnxruntime there is no operator {node.op_type}: pip install onnxruntime. "
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
