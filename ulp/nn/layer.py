"""What all layers share: arrays, tensors and symbols in, the same out; the quantizer of the input; plans cached by shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp._tensors import as_numpy, is_tensor, like
from ulp._validate import bit_width

from .graph import Quantize, Shape
from .lower import lower
from .module import Module
from .observer import Observer
from .quantizer import FloatArray, Quantizer, from_range
from .shapes import LayerError
from .trace import Symbol, Trace, record

_FLOAT32 = np.dtype(np.float32)
# How many plans a layer keeps, one per input shape; the oldest is dropped first.
_MAX_PLANS = 32


def as_input(x: Any, name: str = "input") -> tuple[FloatArray, Callable[[Any], Any]]:
    """x as contiguous float32, and what brings a result back to x's kind: numpy array or torch tensor, of 16 bits if x is."""
    if type(x) is np.ndarray and x.dtype == _FLOAT32:
        flags = x.flags
        if flags.c_contiguous and flags.aligned:
            return x, _same
    if isinstance(x, tuple):  # as an LSTM gives it
        raise TypeError(f"{name} is a tuple of {len(x)}: expected an array; LSTM and GRU give (result, last states)")
    array = np.asarray(as_numpy(x, name))
    if array.dtype.kind != "f":
        fix = f"{name}.float()" if is_tensor(x) else f"{name}.astype(np.float32)"
        raise TypeError(f"{name} has dtype {getattr(x, 'dtype', array.dtype)}: expected floats, pass {fix}")
    with np.errstate(over="ignore"):  # beyond float32 a float64 is an infinity, as in torch: masks hold the least number of their dtype
        return np.require(array, np.float32, ("C", "A")), lambda result: like(x, result)


def _same(x: Any) -> Any:
    return x


class Layer(Module):
    """A module that computes: `_compute` for arrays, `_record` for symbols. Setting any attribute drops its cached plans."""

    # What a layer computed for an input shape: mostly plans.
    _plans: dict[Shape, Any]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_plans", {})

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # A new dict: another thread may still write to the old one.
        object.__setattr__(self, "_plans", {})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`. Errors need no names of layers here, as in `Module`: a layer contains none."""
        return self.forward(*args, **kwargs)

    def forward(self, *inputs: Any) -> Any:
        """Float32 in, float32 out, and so for float16; torch tensors give a torch tensor."""
        try:
            if isinstance(inputs[0], Symbol):
                return self._record(*inputs)
            array, back = as_input(inputs[0])
            result = self._compute(array, *(as_input(x, f"input {i}")[0] for i, x in enumerate(inputs[1:], 2)))
            return back(np.asarray(result))  # numpy makes scalars of arrays without dimensions
        except LayerError as error:
            error.layer = error.layer or self
            raise

    def _planned(self, key: Shape, make: Callable[[], Any]) -> Any:
        """What has been made for the key, or make()."""
        made = self._plans.get(key)
        if made is None:
            plans = self._plans  # read before `make`: setting an attribute meanwhile replaces the dict
            made = make()
            if len(plans) >= _MAX_PLANS:
                plans.pop(next(iter(plans)), None)
            plans[key] = made
        return made

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        raise NotImplementedError

    def _record(self, *inputs: Symbol) -> Symbol:
        raise NotImplementedError


class QuantizedInput(Layer):
    """A layer that quantizes its input (Add: its second one), by a fixed quantizer or by each call's range.

    act_bits: 1..8. act_signed: False: codes represent 0.0 and above; True: negative values as well; None: signed if calibration (or, where
    dynamic, the call) sees a negative value. act_asymmetric: any zero point, as the range requires. dynamic: the range of each
    call's whole input, no calibration; such a layer cannot be compiled.
    quantizer: None until `calibrate`, `load_state_dict` or an assignment sets it; once set it is used, also by dynamic layers.
    """

    def __init__(self, act_bits: int, act_signed: bool | None, act_asymmetric: bool, dynamic: bool) -> None:
        super().__init__()
        self.act_bits = bit_width(act_bits, "act_bits")
        self.act_signed = act_signed
        self.act_asymmetric = act_asymmetric
        self.dynamic = dynamic
        if act_signed and self.act_bits == 1 and not act_asymmetric:
            raise ValueError(
                "act_signed=True with act_bits=1: the two codes would stand for 0 and a negative value; use act_bits=2 or more"
            )
        if dynamic and act_asymmetric:
            raise ValueError("dynamic=True with act_asymmetric=True: a zero point that moves from call to call is not supported")
        self.quantizer: Quantizer | None = None
        self._observer: Observer | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "quantizer" and value is not None and value.bits != self.act_bits:
            raise ValueError(f"quantizer has {value.bits} bits, but act_bits={self.act_bits}")
        if name == "quantizer" and value is not None and (value.ties_to_odd or value.steps is not None):
            field = "ties_to_odd" if value.ties_to_odd else "steps"
            raise ValueError(f"{field}: only sums of layers are rounded so, by models from ONNX, not the input of a layer")
        super().__setattr__(name, value)

    @property
    def observable(self) -> bool:
        """Whether `calibrate` finds a range for the layer: not where each call finds its own."""
        return not self.dynamic

    def input_quantizer(self) -> Quantizer:
        """The fixed quantizer, or LayerError."""
        if self.quantizer is not None:
            return self.quantizer
        kind = type(self).__name__
        if self.dynamic:
            raise LayerError(f"{kind} is dynamic, and a compiled network needs fixed ranges: make it with dynamic=False and calibrate")
        raise LayerError(
            f"{kind} is not calibrated, the range of its input is not known: call network.calibrate(batches) or "
            f"ulp.nn.calibrate(network, batches), load a state dict with act_scale, or make the layer with dynamic=True"
        )

    def quantizer_for(self, x: FloatArray) -> Quantizer:
        """The quantizer of this call. ValueError where a value is not finite."""
        check_finite(x)
        if self.quantizer is not None or not self.dynamic:
            return self.input_quantizer()
        low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
        return from_range(low, high, self.act_bits, self.act_signed, asymmetric=False)

    def _rounded(self, x: FloatArray) -> FloatArray:
        """x as codes and back: `Quantizer.round_trip`, natively where x is a batch of images or of features."""
        quantizer = self.quantizer
        if quantizer is None or x.ndim not in (2, 3, 4) or x.size == 0:
            return self.quantizer_for(x).round_trip(x)
        shape, op = x.shape[1:], Quantize(quantizer)
        result: FloatArray = self._planned(shape, lambda: plan_of(shape, self, lambda s: record(op, s.node.shape, self, s)))(x)[0]
        return result

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        if self.quantizer is None:
            return {}
        return {"act_scale": np.array(self.quantizer.scale, np.float32), "act_zero": np.array(self.quantizer.zero, np.int64)}

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        return {"act_scale": ((), False), "act_zero": ((), False)}

    def _assign(self, values: dict[str, FloatArray]) -> None:
        if "act_scale" in values:
            self.quantizer = Quantizer(self.act_bits, float(values["act_scale"]), int(values.get("act_zero", 0)))

    def _act_repr(self) -> str:
        signed = {None: "", False: ", unsigned", True: ", signed"}[self.act_signed]
        kind = ", asymmetric" if self.act_asymmetric else signed
        return f"act_bits={self.act_bits}{kind}{', dynamic=True' if self.dynamic else ''}"


class PlannedLayer(QuantizedInput):
    """A layer of one input that runs a native plan of its own, one for each shape it meets."""

    def forward(self, x: Any) -> Any:
        """Float32 in, float32 out; torch tensors give a torch tensor. Images with and without a batch, as in torch."""
        if type(x) is np.ndarray:
            run = self._plans.get(x.shape[1:])
            if run is not None and x.dtype == _FLOAT32:
                flags = x.flags
                if flags.c_contiguous and flags.aligned:
                    return run(x)[0]
        return super().forward(x)

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x = inputs[0]
        dims = self._image_dims
        self._check(x.shape[-dims:] if x.ndim >= dims else x.shape, x.shape)
        if x.ndim == dims:
            single: FloatArray = self._batch(x[None])[0]
            return single
        return self._batch(x)

    def _batch(self, x: FloatArray) -> FloatArray:
        if self._observer is not None:
            self._observer.add(x)
            return self._float(x)
        if self.dynamic and self.quantizer is None:
            return self._dynamic(x)
        self._settle()
        result: FloatArray = self._planned(x.shape[1:], lambda: plan_of(x.shape[1:], self, self._record_image))(x)[0]
        return result

    def _record_image(self, x: Symbol) -> Symbol:
        """What the layer's own plan does with an image."""
        return self._record(x)

    def _settle(self) -> None:
        """Fix what is undecided (random weights) before a plan is made."""

    def _check(self, shape: Shape, given: Shape) -> None:
        """LayerError unless `shape` is one image that the layer takes; `given` is what the caller passed."""
        raise NotImplementedError

    def _float(self, x: FloatArray) -> FloatArray:
        """What the layer computes without quantizing its input."""
        raise NotImplementedError

    def _dynamic(self, x: FloatArray) -> FloatArray:
        """The layer with the quantizer of this input."""
        raise NotImplementedError

    _image_dims = 3


def check_finite(x: FloatArray) -> None:
    """ValueError where a value is a NaN or an infinity."""
    if not np.logical_and.reduce(np.isfinite(x), axis=None):  # .all() takes twice as long for a small array
        raise ValueError("the input holds a NaN or an infinity")


def plan_of(shape: Shape, layer: Module, build: Callable[[Symbol], Symbol], codes_in: bool = False) -> Callable[[Any], list[FloatArray]]:
    """A function that runs the small network which `build` records for one image of `shape`."""
    trace = Trace(layer, shape)
    trace.graph.outputs = [build(Symbol.start(trace, 1)).result]
    return lower(trace.graph, codes_in=codes_in).runner()
