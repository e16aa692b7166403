"""The steps of a plan as `_cuda.Network` takes them: one function for each kind of step that has a form on a GPU.

What a step means is said where the CPU's is, in csrc/plan/steps. A plan of the CPU has accepted every field before it comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ulp import _core

Fields = Mapping[str, Any]
_TENSORS = ("codes", "floats")
# Planes pad channels to 128: fewer than this, and most of what they multiply is padding.
_MIN_PLANE_CHANNELS = 32
_NO_FORM = "has no form on a GPU yet"


class Tensor(NamedTuple):
    """An image of the plan."""

    height: int
    width: int
    channels: int
    codes: bool
    bits: int = 0
    zero: int = 0
    scale: float = 1.0

    @property
    def pixel(self) -> int:
        """Elements from a pixel to the next on the device: codes are padded to a multiple of 4."""
        return -(-self.channels // 4) * 4 if self.codes else self.channels

    @property
    def elements(self) -> int:
        """Of an image, with what pads its pixels."""
        return self.height * self.width * self.pixel


class Port(NamedTuple):
    """What a call brings or gets, for one image."""

    shape: tuple[int, int, int]
    dtype: str


class Builder:
    """A network on the device while its steps are added."""

    def __init__(self, module: Any, device: int, methods: Mapping[int, str] | None = None) -> None:
        self.module = module
        self.device = device
        self.network = module.Network(device)
        self.tensors: list[Tensor] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.steps = 0
        self._weights: dict[tuple[Any, ...], tuple[Any, int, Any]] = {}
        self._methods = methods or {}

    def add(self, kind: str, fields: Fields, name: str = "") -> None:
        """A tensor or a step. ValueError, with the step's name, for one that has no form on a GPU."""
        if kind in _TENSORS:
            codes = {"bits": int(fields["bits"]), "zero": int(fields["zero"])} if kind == "codes" else {}
            scale = float(np.float32(fields.get("scale", 1.0)))
            sides = {side: int(fields[side]) for side in ("height", "width", "channels")}
            self.tensors.append(Tensor(**sides, codes=kind == "codes", **codes, scale=scale))
            getattr(self.network, kind)(**sides, **codes, **({"scale": scale} if codes else {}))
            return
        if kind not in FORMS:
            raise ValueError(no_form(kind, name))
        FORMS[kind](self, fields)
        self.steps += 1

    @property
    def method(self) -> str:
        """The kernel that the next convolution is to use; "": the best."""
        return self._methods.get(self.steps, "")

    def weights(self, packed: Any, zero: int, taps: tuple[int, int], channels: int) -> tuple[Any, int]:
        """Weights on the device, K x N in the order (ky, kx, c), and their zero point; packed once, however many steps use them.

        channels: of the image, below 4 where weights may be padded by kernel rows (csrc/conv/conv.h: tight).
        """

        def make() -> tuple[npt.NDArray[Any], int, int]:
            values = _core.unpack(packed)
            by_rows = taps[0] * (-(-taps[1] * channels // 4) * 4)
            if channels < 4 and taps[1] > 1 and packed.k == by_rows:
                values = _by_taps(values, taps, channels)
            bits = 4 if packed.bits <= 4 else 8  # csrc/cuda/conv_rows.cuh: find_conv
            return *_centred(values, bits, zero), bits

        return self._kept((id(packed), zero, taps, channels), packed, make)

    def planes(self, packed: Any, zero: int, taps: int, own: int, a_bits: int) -> tuple[Any, int]:
        """The same for 1-bit tensor cores, whose taps have whole blocks of 128 channels; (None, 0) where bytes are faster.

        own: the channels of the image that the layer reads. a_bits: of its codes.
        """
        pays = own >= _MIN_PLANE_CHANNELS and self.module.planes_pay(a_bits=a_bits, b_bits=packed.bits, device=self.device)
        if not pays:
            return None, 0

        def make() -> tuple[npt.NDArray[Any], int, int]:
            values = _core.unpack(packed)
            rows = values.reshape(taps, -1, values.shape[1])[:, :own]
            rows, kept = _centred(rows, packed.bits, zero)
            bipolar = rows.dtype == np.int8 and packed.bits == 1
            # What is stored as 0 (csrc/cuda/arguments.h).
            fill = 1 if bipolar else 0 if rows.dtype == np.int8 else 2 ** (packed.bits - 1)
            rows = np.pad(rows, ((0, 0), (0, -own % 128), (0, 0)), constant_values=fill)
            return rows.reshape(-1, values.shape[1]), kept, packed.bits

        return self._kept((id(packed), zero, taps, own, "planes"), packed, make)

    def _kept(self, key: tuple[Any, ...], packed: Any, make: Callable[[], tuple[npt.NDArray[Any], int, int]]) -> tuple[Any, int]:
        """Weights on the device and their zero point, made of (values, zero point, bits) once per key."""
        if key not in self._weights:
            values, kept, bits = make()
            made = self.module.Weights.from_host(np.ascontiguousarray(values), bits, self.device)
            self._weights[key] = made, kept, packed  # which keeps the id its own
        made, kept, _ = self._weights[key]
        return made, kept


def no_form(kind: str, name: str) -> str:
    """The message for a step that only the CPU can compute."""
    return f"the step {kind!r}{f' of {name}' if name else ''} {_NO_FORM}: run this network on the CPU"


def without_form(calls: Sequence[tuple[str, Fields]], names: Sequence[str]) -> str:
    """The message for the first step that has no form on a GPU; "" if all have one."""
    steps = [kind for kind, _ in calls if kind not in _TENSORS]
    return next((no_form(kind, name) for kind, name in zip(steps, names, strict=True) if kind not in FORMS), "")


def _by_taps(values: npt.NDArray[Any], taps: tuple[int, int], channels: int) -> npt.NDArray[Any]:
    """Weights padded by kernel rows as weights padded by taps: channels become 4."""
    height, width = taps
    n = values.shape[1]
    rows = values.reshape(height, -1, n)[:, : width * channels].reshape(height, width, channels, n)
    # Codes behind the channels are the zero point, so any weight will do there.
    padded = np.full((height, width, 4, n), values.flat[0], dtype=values.dtype)
    padded[:, :, :channels] = rows
    return padded.reshape(height * width * 4, n)


def _centred(values: npt.NDArray[Any], bits: int, zero: int) -> tuple[npt.NDArray[Any], int]:
    """Values of so many bits and their zero point: signed without one where that fits, which spares the sums of the windows' codes."""
    if bits == 1 or (values.dtype == np.int8 and zero == 0):  # signed values of 1 bit are -1 and 1
        return values, zero
    centred = values.astype(np.int32) - zero
    if -(2 ** (bits - 1)) <= int(centred.min()) and int(centred.max()) < 2 ** (bits - 1):
        return centred.astype(np.int8), 0
    return values, zero


# ----------------------------------------------------------------------------------------------------------------- parts of steps


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def _place(value: Any) -> tuple[int, int] | None:
    return None if value is None else _pair(value)


def _finish(fields: Fields) -> dict[str, Any]:
    """The epilogue (csrc/plan/finish_spec.h)."""
    targets = fields["targets"]
    thresholds = fields.get("thresholds") or [None] * len(targets)
    after = fields.get("after") or [None] * len(targets)
    unit = fields.get("unit")
    return {
        "scale": fields.get("scale"),
        "bias": fields.get("bias"),
        "start": fields.get("start"),
        "unit": 1.0 if unit is None else float(unit),
        "low": float(fields["low"]),
        "high": float(fields["high"]),
        "residual": _place(fields.get("residual")),
        "targets": [_target(*each) for each in zip(targets, thresholds, after, strict=True)],
    }


def _target(place: Any, thresholds: Any, after: Any) -> dict[str, Any]:
    values, flip = (None, None) if thresholds is None else thresholds
    then = after or {}
    return {
        "place": _pair(place),
        "thresholds": values,
        "flip": None if flip is None else -np.asarray(flip).astype(np.int32),
        "table": then.get("table"),
        "other": _place(then.get("other")),
        "after_bits": int(then.get("bits", 0)),
        "after_zero": int(then.get("zero", 0)),
        "after_scale": float(then.get("scale", 0.0)),
    }


def _scale(tensor: Tensor, finish: Fields) -> np.float32:
    """Of the tensor's codes, in units of the epilogue's values."""
    unit = finish.get("unit")
    scale: np.float32 = np.float32(tensor.scale) / np.float32(1.0 if unit is None else unit)
    return scale


def _window(tensor: Tensor, kernel: tuple[int, int], fields: Fields) -> dict[str, Any]:
    stride, dilation = _pair(fields["stride"]), _pair(fields["dilation"])
    top, left, bottom, right = (int(side) for side in fields["padding"])
    sides = ((tensor.height, top + bottom), (tensor.width, left + right))
    out = tuple((size + pad - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i, (size, pad) in enumerate(sides))
    return {"kernel": kernel, "stride": stride, "dilation": dilation, "padding": (top, left, bottom, right), "out": out}


# -------------------------------------------------------------------------------------------------------------------------- steps


def _input_floats(b: Builder, fields: Fields) -> None:
    nhwc, divide = bool(fields.get("nhwc") or False), bool(fields.get("divide") or False)
    height, width, channels = (int(fields[side]) for side in ("height", "width", "channels"))
    shape = (height, width, channels) if nhwc else (channels, height, width)
    b.network.input(targets=[int(t) for t in fields["targets"]], port=len(b.inputs), codes=False, divide=divide, nhwc=nhwc)
    b.inputs.append(Port(shape, "float32"))


def _input_codes(b: Builder, fields: Fields) -> None:
    tensor = b.tensors[fields["tensor"]]
    b.network.input(targets=[int(fields["tensor"])], port=len(b.inputs), codes=True, divide=False, nhwc=bool(fields["nhwc"]))
    b.inputs.append(_port(tensor, bool(fields["nhwc"])))


def _output(b: Builder, fields: Fields) -> None:
    nhwc = bool(fields["nhwc"])
    b.network.output(tensor=int(fields["tensor"]), port=len(b.outputs), nhwc=nhwc)
    b.outputs.append(_port(b.tensors[fields["tensor"]], nhwc))


def _port(tensor: Tensor, nhwc: bool) -> Port:
    height, width, channels = tensor[:3]
    return Port((height, width, channels) if nhwc else (channels, height, width), "uint8" if tensor.codes else "float32")


def _conv(b: Builder, fields: Fields) -> None:
    tensor, kernel = b.tensors[fields["source"]], _pair(fields["kernel"])
    plain = fields["source_channel"] == 0 and tuple(fields["dilation"])[1] == 1
    _add_conv(b, fields, int(fields["source_channel"]), tensor.channels if plain else 4, _window(tensor, kernel, fields))


def _linear(b: Builder, fields: Fields) -> None:
    """A convolution whose window is the image."""
    tensor = b.tensors[fields["source"]]
    kernel = tensor.height, tensor.width
    whole = {"stride": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0)}
    _add_conv(b, fields, 0, 4, _window(tensor, kernel, whole))


def _add_conv(b: Builder, fields: Fields, first: int, channels: int, window: dict[str, Any]) -> None:
    """first: the channel that the layer reads first. channels: as Builder.weights takes them."""
    tensor, packed, kernel = b.tensors[fields["source"]], fields["weights"], window["kernel"]
    taps = kernel[0] * kernel[1]
    weights, zero = b.weights(packed, int(fields["weight_zero"]), kernel, channels)
    own = min(packed.k // taps, tensor.channels - first)
    planes, plane_zero = b.planes(packed, int(fields["weight_zero"]), taps, own, tensor.bits)
    b.network.conv(
        source=(int(fields["source"]), first),
        weights=weights,
        weight_zero=zero,
        planes=planes,
        plane_zero=plane_zero,
        finish=_finish(fields["finish"]),
        method=b.method,
        **window,
    )


def _linear_floats(b: Builder, fields: Fields) -> None:
    b.network.linear_floats(source=int(fields["source"]), target=_pair(fields["target"]), weights=fields["weights"], bias=fields["bias"])


def _depthwise(b: Builder, fields: Fields) -> None:
    weights = fields["weights"]
    kernel = weights.shape[0], weights.shape[1]
    window = _window(b.tensors[fields["source"]], kernel, fields)
    b.network.depthwise(source=int(fields["source"]), weights=weights, finish=_finish(fields["finish"]), **window)


def _max_pool(b: Builder, fields: Fields) -> None:
    takes_min = fields.get("takes_min")
    masks = None if takes_min is None or not len(takes_min) else np.asarray(takes_min).astype(np.uint8) * 0xFF
    b.network.max_pool(
        source=int(fields["source"]),
        target=_pair(fields["target"]),
        rows=fields["rows"],
        columns=fields["columns"],
        dilation=_pair(fields["dilation"]),
        masks=masks,
    )


def _window_mean(b: Builder, fields: Fields) -> None:
    scale = _scale(b.tensors[fields["source"]], fields["finish"])
    b.network.window_mean(
        source=int(fields["source"]),
        rows=fields["rows"],
        columns=fields["columns"],
        scales=scale / fields["divisor"],
        out=(len(fields["rows"]), len(fields["columns"])),
        finish=_finish(fields["finish"]),
    )


def _rescale(b: Builder, fields: Fields) -> None:
    scale = _scale(b.tensors[fields["source"]], fields["finish"])
    b.network.rescale(source=int(fields["source"]), scale=float(scale), finish=_finish(fields["finish"]))


def _gather(b: Builder, fields: Fields) -> None:
    tensor = b.tensors[fields["source"]]
    rows, columns = (np.asarray(fields[name], np.int64) for name in ("rows", "columns"))
    b.network.move(
        source=(int(fields["source"]), int(fields["source_channel"])),
        target=_pair(fields["target"]),
        rows=_offsets(np.where(rows < 0, -1, rows * tensor.width * tensor.pixel)),
        columns=_offsets(np.where(columns < 0, -1, columns * tensor.pixel)),
        channels=None,
        count=int(fields["channels"]),
    )


def _rearrange(b: Builder, fields: Fields) -> None:
    tensor = b.tensors[fields["source"]]
    steps = np.array([tensor.width * tensor.pixel, tensor.pixel, 1], dtype=np.int64)
    b.network.move(
        source=(int(fields["source"]), 0),
        target=_pair(fields["target"]),
        **{name: _offsets(fields[name].astype(np.int64) @ steps) for name in ("rows", "columns", "channels")},
        count=len(fields["channels"]),
    )


def _offsets(elements: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    if int(elements.max()) > np.iinfo(np.int32).max:
        raise ValueError("an image of more than 2^31 elements does not run on a GPU")
    return elements.astype(np.int32)


def _lookup(b: Builder, fields: Fields) -> None:
    tables = {name: table for name in ("codes", "values") if (table := fields.get(name)) is not None and len(table)}
    (table,) = tables.values()
    b.network.lookup(
        source=int(fields["source"]),
        target=_pair(fields["target"]),
        codes=tables.get("codes"),
        values=tables.get("values"),
        per_channel=len(table) > 1,
    )


def _combine(b: Builder, fields: Fields) -> None:
    b.network.combine(
        operands=[_pair(place) for place in fields["operands"]],
        targets=[_pair(place) for place in fields["targets"]],
        channels=int(fields["channels"]),
        multiply=bool(fields["multiply"]),
        low=float(fields["low"]),
        high=float(fields["high"]),
        divide=bool(fields["divide"]),
    )


FORMS: dict[str, Callable[[Builder, Fields], None]] = {
    "input_floats": _input_floats,
    "input_codes": _input_codes,
    "conv": _conv,
    "depthwise": _depthwise,
    "linear": _linear,
    "linear_floats": _linear_floats,
    "max_pool": _max_pool,
    "window_mean": _window_mean,
    "rescale": _rescale,
    "gather": _gather,
    "rearrange": _rearrange,
    "lookup": _lookup,
    "combine": _combine,
    "output": _output,
}
"""By the name that plans and saved files have for a kind of step."""
