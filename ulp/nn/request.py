"""What lowering passes through a graph: tensors of the plan to be, slices of them, and the results that are requested there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from . import graph as ir
from .quantizer import Quantizer

FREE = (-math.inf, math.inf)


@dataclass(eq=False)
class Tensor:
    """An image of a plan; quantizer None: floats. One that turns out to equal another is merged into it.

    tight: whether its reader needs pixels without padded channels (lower_rules.py: _tight); None: it takes both.
    """

    height: int
    width: int
    channels: int
    quantizer: Quantizer | None
    tight: bool | None = None
    merged: Tensor | None = None
    id: int = -1

    def find(self) -> Tensor:
        """The tensor that stands for this one in the plan."""
        tensor = self
        while tensor.merged is not None:
            tensor = tensor.merged
        return tensor


@dataclass(frozen=True)
class Slot:
    """`channels` channels of a tensor, from `channel` on."""

    tensor: Tensor
    channel: int
    channels: int

    @property
    def whole(self) -> bool:
        """Whether these are all channels."""
        return self.channels == self.tensor.channels

    @property
    def place(self) -> tuple[int, int]:
        """(tensor, channel) as a plan names them, once the tensor has its id."""
        return self.tensor.find().id, self.channel

    def part(self, offset: int, channels: int) -> Slot:
        """Some of these channels."""
        return Slot(self.tensor, self.channel + offset, channels)

    def same(self, other: Slot) -> bool:
        """Whether both begin at the same place."""
        return self.tensor.find() is other.tensor.find() and self.channel == other.channel


@dataclass(frozen=True)
class Request:
    """clamp(value + residual, low, high) is to be written to `slot`. adder: the Add that the residual comes from, if there is one."""

    slot: Slot
    low: float = -math.inf
    high: float = math.inf
    residual: Slot | None = None
    adder: ir.Node | None = None

    @property
    def quantizer(self) -> Quantizer | None:
        """None: floats."""
        return self.slot.tensor.quantizer

    @property
    def clamp(self) -> tuple[float, float]:
        """(low, high)"""
        return self.low, self.high

    @property
    def clamps(self) -> bool:
        """Whether the clamp does anything."""
        return self.clamp != FREE


@dataclass(frozen=True)
class After:
    """A table behind an epilogue: the result is table[u], u being codes of `quantizer`; with another operand table[u | w << bits of u]."""

    quantizer: Quantizer
    other: Slot | None
    table: npt.NDArray[np.uint8]


@dataclass
class Group:
    """Requests that one epilogue meets. after: tables behind it, by the index of the slot."""

    low: float
    high: float
    residual: Slot | None
    slots: list[Slot]
    after: dict[int, After] = field(default_factory=dict)

    def quantizer(self, i: int) -> Quantizer | None:
        """What makes the codes of slot i, or of the table behind it; None: floats."""
        return self.after[i].quantizer if i in self.after else self.slots[i].tensor.quantizer

    def meets(self, request: Request) -> bool:
        """Whether the group's clamp gives the same codes, or floats, as the request's."""
        clamp = (self.low, self.high)
        if request.quantizer is not None:
            clamp = request.quantizer.effective_clamp(*clamp)
        return clamp == request.clamp


def merge(tensor: Tensor, into: Tensor) -> bool:
    """Have one tensor stand for both; False where their readers disagree."""
    if tensor is into:
        return True
    if tensor.channels < 4 and None not in (tensor.tight, into.tight) and tensor.tight != into.tight:
        return False
    if into.tight is None:
        into.tight = tensor.tight
    tensor.merged = into
    return True


def same_residual(a: Slot | None, b: Slot | None) -> bool:
    """Whether both add the same, or nothing."""
    if a is None or b is None:
        return a is b
    return a.same(b)
