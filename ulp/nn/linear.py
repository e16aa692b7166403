"""`Linear`, with fixed ranges of its input, those of a call, or those of each row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ulp._validate import bit_width, integer, layer_widths

from .graph import Conv, DynamicLinear, Shape
from .graph import Linear as LinearOp
from .graph import Weights as GraphWeights
from .layer import plan_of
from .quantizer import FloatArray, Quantizer, WeightMethod, WeightOptions, WeightRange
from .shapes import LayerError, shape_text
from .trace import Symbol, record
from .weights import Weighted

Dynamic: TypeAlias = bool | Literal["row"]


class Linear(Weighted):
    """x @ weight.T + bias with `bits`-bit weights (out_features, in_features); arguments as for torch.nn.Linear and `Conv2d`.

    Takes float32 (..., in_features), gives (..., out_features). Compiled, it takes (N, in_features) and (N, T, in_features).
    dynamic: "row": each row (each word of a sequence) is quantized by its own range, in the call, to any zero point, so that act_signed and
    act_asymmetric are refused. Such a layer can be compiled, and a GELU, SiLU, Sigmoid or Tanh of act_bits=None behind it becomes part
    of it.
    """

    _image_dims = 1

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        bits: int | str,
        act_bits: int | None = None,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: Dynamic = False,
        per_channel: bool = True,
        weight_method: WeightMethod = "mse",
        weight_range: WeightRange = "full",
    ) -> None:
        bits, act_bits = layer_widths(bits, act_bits)
        in_features = integer(in_features, "in_features", 1, 2**24)
        out_features = integer(out_features, "out_features", 1, 2**24)
        options = WeightOptions(bit_width(bits, "bits"), per_channel, weight_method, weight_range)
        if not isinstance(dynamic, (bool, np.bool_)) and dynamic != "row":
            raise (ValueError if isinstance(dynamic, str) else TypeError)(f"dynamic={dynamic!r}: expected True, False or 'row'")
        if dynamic == "row" and (act_signed is not None or act_asymmetric):
            raise ValueError("act_signed or act_asymmetric with dynamic='row': the range of each row says what its codes stand for")
        super().__init__((out_features, in_features), bias, options, act_bits, act_signed, act_asymmetric, bool(dynamic))
        self.of_rows = dynamic == "row"
        self.in_features = in_features
        self.out_features = out_features

    @classmethod
    def from_float(cls, layer: Any, *, bits: int | str, **options: Any) -> Linear:
        """A layer like `layer` (a torch.nn.Linear, or what has its attributes) with its weights quantized; not calibrated.

        Further options as for Linear.
        """
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, bits=bits, **options)
        return made._take_float(layer)

    @classmethod
    def from_quantized(
        cls,
        weight_int: npt.ArrayLike,
        weight_scale: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        act_scale: float | None = None,
        act_zero: int = 0,
        *,
        bits: int | str,
        **options: Any,
    ) -> Linear:
        """A layer of given integers (out_features, in_features); the other arguments as for `Conv2d.from_quantized`."""
        shape = np.shape(weight_int)
        if len(shape) != 2:
            raise LayerError(f"weight_int has shape {shape_text(shape)}, expected two dimensions, (out_features, in_features)")
        made = cls(shape[1], shape[0], bias is not None, bits=bits, **options)
        return made._take_quantized(weight_int, weight_scale, bias, act_scale, act_zero)

    def _check(self, shape: Shape, given: Shape) -> None:
        if len(shape) not in (1, 2) or shape[-1] != self.in_features:
            rows = int(np.prod(given[:-1])) if given else 0
            columns = given[-1] if given else 0
            raise LayerError(
                f"mat1 and mat2 shapes cannot be multiplied ({rows}x{columns} and {self.in_features}x{self.out_features})"
                + (f": a compiled Linear takes (N, {self.in_features}), flatten {shape_text(given)} first" if len(shape) > 2 else "")
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "quantizer" and value is not None and getattr(self, "of_rows", False):
            raise ValueError("quantizer: each row has its own, as the layer was made with dynamic='row'")
        super().__setattr__(name, value)

    def _record(self, *inputs: Symbol) -> Symbol:
        if not self.of_rows:
            return super()._record(*inputs)
        x = inputs[0]
        self._check(x.shape[1:], x.shape)
        op = DynamicLinear(self.graph_weights(), True, self.act_bits)
        if x.rows is None:
            return record(op, (self.out_features,), self, x)
        x = x.as_rows(True)  # a pixel per row
        return record(op, (self.out_features, *x.node.shape[1:]), self, x)

    def _dynamic(self, x: FloatArray) -> FloatArray:
        if not self.of_rows:
            return super()._dynamic(x)
        if len(x) == 0:
            return np.zeros((0, self.out_features), np.float32)
        self._settle()
        rows = x[None]  # as one sequence
        result: FloatArray = self._planned(rows.shape[1:], lambda: plan_of(rows.shape[1:], self, self._record))(rows)[0]
        return np.asarray(result[0])

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        found = super()._expected()
        return {name: each for name, each in found.items() if not (self.of_rows and name.startswith("act_"))}

    def _act_repr(self) -> str:
        return f"act_bits={self.act_bits}, dynamic='row'" if self.of_rows else super()._act_repr()

    def _nodes(self, x: Symbol, quantizer: Quantizer, weights: GraphWeights) -> Symbol:
        if x.rows is None:
            return record(LinearOp(weights, quantizer), (self.out_features,), self, x)
        x = x.as_rows(True)  # a pixel per row
        op = Conv(replace(weights, integers=weights.integers[:, :, None, None]), quantizer, (1, 1), (0, 0, 0, 0), (1, 1), 1)
        return record(op, (self.out_features, *x.node.shape[1:]), self, x)

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x = inputs[0]
        self._check(x.shape[-1:], x.shape)
        return self._batch(x.reshape(-1, self.in_features)).reshape(*x.shape[:-1], self.out_features)

    def _float(self, x: FloatArray) -> FloatArray:
        result: FloatArray = x @ self.weight.T
        return result if self.bias is None else np.asarray(result + self.bias)

    def extra_repr(self) -> str:
        """As torch's, and the bits."""
        return f"in_features={self.in_features}, out_features={self.out_features}{self._bits_repr()}"
