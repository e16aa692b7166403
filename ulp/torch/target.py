"""A layer of the model that is to be converted, with the batch normalisation that becomes part of it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulp import nn

from .quantized.found import LayerIntegers

_CONV_ATTRIBUTES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


@dataclass
class Target:
    """A layer of the model that is to be converted, and the batch normalisation that becomes part of it.

    quantized: the layer's integers, where it is one of Brevitas.
    """

    name: str
    layer: Any
    quantized: LayerIntegers | None = None
    norm_name: str | None = None
    norm: Any = None

    @property
    def kind(self) -> Any:
        """The class of `ulp.nn` that it becomes."""
        if isinstance(self.layer, torch.nn.Linear):
            return nn.Linear
        return nn.Conv1d if isinstance(self.layer, torch.nn.Conv1d) else nn.Conv2d

    def from_float(self, bits: int, **options: Any) -> Any:
        """The layer with its weights quantized."""
        layer = self.layer
        names = ("in_features", "out_features") if self.kind is nn.Linear else _CONV_ATTRIBUTES
        weight = layer.weight.detach().cpu().double()
        bias = None if layer.bias is None else layer.bias.detach().cpu().double()
        if self.norm is not None:
            scale, shift = self._norm_terms()
            weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
            bias = (0 if bias is None else bias) * scale + shift
        arrays = {"weight": weight.float().numpy(), "bias": None if bias is None else bias.float().numpy()}
        source = SimpleNamespace(**{name: getattr(layer, name) for name in names}, **arrays)
        return self.kind.from_float(source, bits=bits, **options)

    def from_quantized(self, own: LayerIntegers) -> Any:
        """The layer of its own integers, which a batch normalisation leaves as they are."""
        scale, bias = own.scale, own.bias
        if self.norm is not None:
            factor, shift = (term.numpy() for term in self._norm_terms())
            scale, bias = (scale * factor).astype(np.float32), ((0 if bias is None else bias) * factor + shift).astype(np.float32)
        q = own.quantizer
        names = () if self.kind is nn.Linear else _CONV_ATTRIBUTES[3:]
        options = {name: getattr(self.layer, name) for name in names}
        return self.kind.from_quantized(own.integers, scale, bias, q.scale, q.zero, bits=own.bits, act_bits=q.bits, **options)

    def _norm_terms(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) of the batch normalisation, float64."""
        norm = self.norm
        # Without `affine` it has neither, and torch has normalisations with a weight alone.
        weight, bias = (1 if term is None else term.detach().cpu().double() for term in (norm.weight, norm.bias))
        scale = (norm.running_var.cpu().double() + norm.eps).rsqrt() * weight
        return scale, (0 if norm.bias is None else bias) - norm.running_mean.cpu().double() * scale
