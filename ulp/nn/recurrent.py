"""`LSTM` and `GRU`: sums of low-bit integers, gates in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from ulp._validate import bit_width, layer_widths

from .quantizer import FloatArray, WeightMethod, WeightOptions, WeightRange
from .recurrent_layer import RecurrentLayer
from .shapes import LayerError


class LSTM(RecurrentLayer):
    """torch.nn.LSTM with `bits`-bit weights and products of integers; gates and cells are float32. Projections are refused.

    Takes float32 (T, N, input_size), with batch_first (N, T, input_size), or (T, input_size); and the first states (h, c), each
    (num_layers * directions, N, hidden_size), zeros if left out. Gives (result, (h, c)) as torch's module does, the last states being the
    first ones of what follows on a stream. lengths: integers (N,), how many steps of each sequence count; results behind them are 0.

    Compiled (batch_first only), states are inputs and results of the network, batch first: (N, num_layers * directions, hidden_size).

    bits: 1..8, or "W4A8", which says act_bits, too. act_bits: 1..8, `bits` by default; with bits=1 it must be given.
    dynamic: each step's input, and h, get a scale of their own in the call, by ONNX's DynamicQuantizeLinear of so many bits; how a stream
    is cut changes nothing. False: fixed scales, which `calibrate` finds. per_channel, weight_method, weight_range: as for Conv2d; a channel
    is a column of a gate.

    A sum of integers is exact. Each gate is sigmoid or tanh of float32(sum) * scale, of both products, plus biases; functions are within
    4 units in the last place, their products within 8, and the same on every instruction set.
    Raises LayerError where shapes do not fit, or a fixed range is not known, ValueError for a NaN or an infinity.
    """

    _kind = "lstm"
    _gates = 4
    _state_count = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        bits: int | str,
        act_bits: int | None = None,
        dynamic: bool = True,
        per_channel: bool = True,
        weight_method: WeightMethod = "mse",
        weight_range: WeightRange = "full",
    ) -> None:
        if proj_size:
            raise ValueError(f"proj_size={proj_size!r}: projections are not supported")
        options, act = _options(type(self).__name__, bits, act_bits, per_channel, weight_method, weight_range)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, options, act, dynamic)

    def _states_of(self, state: Any) -> list[Any]:
        if state is None:
            return []
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise LayerError("the states of an LSTM are a pair (h, c)")
        return list(state)

    def _packed(self, states: list[Any]) -> Any:
        return tuple(states)

    def _float_step(self, x: FloatArray, h: FloatArray, states: list[FloatArray], _: FloatArray | None) -> list[FloatArray]:
        i, f, g, o = np.split(x + h, 4, axis=1)
        cell = _sigmoid(f) * states[1] + _sigmoid(i) * np.tanh(g)
        return [_sigmoid(o) * np.tanh(cell), cell]


class GRU(RecurrentLayer):
    """torch.nn.GRU with `bits`-bit weights and products of integers; gates are float32. Arguments as for `LSTM`.

    Its state is h alone: it takes (x, h) and gives (result, h). h is reset behind its product with the weights, as in torch.
    """

    _kind = "gru"
    _gates = 3
    _state_count = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        bits: int | str,
        act_bits: int | None = None,
        dynamic: bool = True,
        per_channel: bool = True,
        weight_method: WeightMethod = "mse",
        weight_range: WeightRange = "full",
    ) -> None:
        options, act = _options(type(self).__name__, bits, act_bits, per_channel, weight_method, weight_range)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, options, act, dynamic)

    def _states_of(self, state: Any) -> list[Any]:
        return [] if state is None else [state]

    def _packed(self, states: list[Any]) -> Any:
        return states[0]

    def _float_step(self, x: FloatArray, h: FloatArray, states: list[FloatArray], hidden_bias: FloatArray | None) -> list[FloatArray]:
        units = self.hidden_size
        r, z = np.split(_sigmoid(x[:, : 2 * units] + h[:, : 2 * units]), 2, axis=1)
        inner = h[:, 2 * units :] if hidden_bias is None else h[:, 2 * units :] + hidden_bias
        n = np.tanh(x[:, 2 * units :] + r * inner)
        return [n + z * (states[0] - n)]


def _options(
    name: str, bits: int | str, act_bits: int | None, per_channel: bool, method: WeightMethod, value_range: WeightRange
) -> tuple[WeightOptions, int]:
    w_bits, act_bits = layer_widths(bits, act_bits)
    width = bit_width(w_bits, "bits")
    if act_bits is None and width == 1:
        raise TypeError(f"{name}: act_bits is needed where bits=1")
    return WeightOptions(width, per_channel, method, value_range), width if act_bits is None else act_bits


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, None))), np.float32)
