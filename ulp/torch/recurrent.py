"""torch.nn.LSTM and GRU, and torch.ao's dynamic ones, as low-bit layers: what `convert` makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulp import nn

from .layers import FixedTypes
from .operators import as_numpy
from .quantized.found import Unfit

_KINDS: dict[str, type[nn.LSTM | nn.GRU]] = {"LSTM": nn.LSTM, "GRU": nn.GRU}
_DYNAMIC = "torch.ao.nn.quantized.dynamic."


def is_recurrent(layer: Any) -> bool:
    """Whether it is a torch.nn.LSTM or GRU, no subclass, or torch.ao's dynamic one."""
    return type(layer) in (torch.nn.LSTM, torch.nn.GRU) or is_quantized(layer)


def is_quantized(layer: Any) -> bool:
    """Whether it is an LSTM or a GRU of torch.ao."""
    return type(layer).__module__.startswith(_DYNAMIC) and type(layer).__name__ in _KINDS


def converted(layer: Any, bits: int, act_bits: int, **options: Any) -> RecurrentModule:
    """The module in its place. Unfit where there is none. bits, act_bits: of floats; torch.ao's layers keep their 8 bits."""
    kind = _KINDS[type(layer).__name__]
    if getattr(layer, "proj_size", 0):
        raise Unfit("it has projections")
    if not is_quantized(layer):
        floats = {name: value.detach().cpu().float().numpy() for name, value in layer.named_parameters()}
        return RecurrentModule(kind.from_float(_Attributes(layer, floats), bits=bits, act_bits=act_bits, **options))
    if layer.dtype != torch.qint8:
        raise Unfit(f"its weights are {layer.dtype}")
    weights = {name: _integers(value) for name, value in layer.get_weight().items()}
    biases = {name: value.detach().float().numpy() for name, value in layer.get_bias().items()}
    return RecurrentModule(kind.from_quantized(layer, weights, biases, bits=8))


class _Attributes:
    """The attributes of a torch module, its parameters as arrays."""

    def __init__(self, layer: Any, arrays: dict[str, Any]) -> None:
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
            setattr(self, name, getattr(layer, name))
        self.__dict__.update(arrays)


def _integers(weight: Tensor) -> tuple[Any, Any]:
    """The integers of a quantized tensor, and their scales."""
    per_row = weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
    zeros = weight.q_per_channel_zero_points() if per_row else torch.tensor(weight.q_zero_point())
    if zeros.any():
        raise Unfit("its weights have zero points")
    scale = weight.q_per_channel_scales() if per_row else torch.tensor(weight.q_scale())
    return weight.int_repr().numpy(), scale.float().numpy()


class RecurrentModule(FixedTypes):
    """A `ulp.nn.LSTM` or `GRU` as a torch module, with torch's arguments and results, on the CPU.

    Its state dict holds the integers, int8, and float32 scales and biases, under torch's names.
    """

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.bits, self.act_bits = layer.bits, layer.act_bits
        self.batch_first = layer.batch_first
        self._layer = layer
        self._stale = False
        for name, (integers, scale) in layer.weights.items():
            self.register_buffer(name, torch.tensor(integers))
            self.register_buffer(f"{name}_scale", torch.tensor(scale))
        for name, bias in layer.biases.items():
            self.register_buffer(name, torch.tensor(bias))
        self.train(False)

    @torch._dynamo.disable  # its plans are no operators of torch
    def forward(self, input: Tensor, hx: Any = None) -> Any:  # noqa: A002  # torch's name
        """(result, last states), as torch's module. RuntimeError where the input requires gradients or is not on the CPU."""
        if not isinstance(input, Tensor):
            raise TypeError(
                f"ulp.torch's {type(self._layer).__name__} takes a padded tensor, not a {type(input).__name__}; of a packed sequence, pass "
                f"what torch.nn.utils.rnn.pad_packed_sequence makes of it"
            )
        if input.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"ulp.torch's {type(self._layer).__name__} is for inference only, and this input requires gradients: call the model under "
                f"torch.no_grad() or torch.inference_mode(), or pass x.detach()"
            )
        if input.device.type != "cpu":
            raise RuntimeError(f"ulp.torch's {type(self._layer).__name__} computes on the CPU, and this input is on {input.device}")
        if self._stale:
            self._reload()
        return self._layer(input.detach(), hx)

    def _reload(self) -> None:
        """Take the buffers, which a state dict has changed."""
        buffers = {name: as_numpy(buffer) for name, buffer in self._buffers.items() if buffer is not None}
        weights = {name: (buffers[name], buffers[f"{name}_scale"]) for name in self._layer.weights}
        biases = {name: buffers[name] for name in self._layer.biases}
        kind: Any = type(self._layer)
        options = {"bits": self.bits, "act_bits": self.act_bits}
        self._layer = kind.from_quantized(self._layer, weights, {n: np.asarray(b, np.float32) for n, b in biases.items()}, **options)
        self._stale = False

    def _load_from_state_dict(self, *args: Any) -> None:
        self._stale = True
        super()._load_from_state_dict(*args)

    def extra_repr(self) -> str:
        """As of the layer of `ulp.nn`."""
        return self._layer.extra_repr()
