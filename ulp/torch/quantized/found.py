"""What readers of quantized layers give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ulp.nn.quantizer import Quantizer


class Unfit(Exception):  # noqa: N818  # a reason, no error
    """Why a layer stays as it is."""


@dataclass(frozen=True)
class LayerIntegers:
    """A layer's integers int8 of `bits` bits (at one bit -1 and +1), scale float32 (O,), bias float32 (O,) or None, and its input."""

    integers: npt.NDArray[np.int8]
    bits: int
    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None
    quantizer: Quantizer
    before: Any = None
    """What quantizes the input, a module of the layer's own, or None: it comes quantized"""
    after: Any = None
    """What quantizes the result, or None"""
    gives_quantized: bool = False
    """Whether the result is what `after` gives, not only its values"""

    def around(self, layer: torch.nn.Module) -> torch.nn.Module:
        """The layer of these integers with what quantizes before and after it."""
        return Surrounded(layer, self.before, self.after, self.gives_quantized)


class Surrounded(torch.nn.Module):
    """A layer of tensors, where others give and take Brevitas' QuantTensors."""

    def __init__(self, layer: torch.nn.Module, before: Any, after: Any, gives_quantized: bool) -> None:
        super().__init__()
        self.before, self.layer, self.after = before, layer, after
        self.gives_quantized = gives_quantized

    def forward(self, input: Any) -> Any:  # noqa: A002  # Brevitas' name
        """Takes a tensor or a QuantTensor."""
        y = self.layer(values_of(input if self.before is None else self.before(input)))
        if self.after is None:
            return y
        return self.after(y) if self.gives_quantized else values_of(self.after(y))


def values_of(x: Any) -> Any:
    """The float values of a QuantTensor, which is a tuple, or of a tensor."""
    return x.value if hasattr(x, "value") else x
