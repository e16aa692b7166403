"""The steps of a plan as `_cuda.Network` takes them: one function for each kind of step that has a form on a GPU.

What a step means is said where the CPU's is, in csrc/plan/steps. A plan of the CPU has accepted every field before it comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import sequences
from .builder import TENSORS, Builder, Fields, Port, Tensor, pair, place_or_none

_NO_FORM = "has no form on a GPU yet"


def add(builder: Builder, kind: str, fields: Fields, name: str = "") -> None:
    """A tensor or a step. ValueError, with the step's name, for one that has no form on a GPU."""
    if kind in TENSORS:
        builder.add_tensor(kind, fields)
        return
    if missing := _missing(kind, fields):
        raise ValueError(no_form(missing, name))
    FORMS[kind](builder, fields)
    builder.steps += 1


def _missing(kind: str, fields: Fields) -> str:
    """What of a step has no form on a GPU, the step or a field that is given; "" if all has one."""
    if kind not in FORMS:
        return kind
    return next((f"{kind} with {name}" for name in sequences.WITHOUT_FORM.get(kind, ()) if _is_given(fields.get(name))), "")


def _is_given(value: Any) -> bool:
    return value is not None and (bool(value) if isinstance(value, (bool, int)) else len(value) > 0)


def no_form(kind: str, name: str) -> str:
    """The message for a step that only the CPU can compute."""
    return f"the step {kind!r}{f' of {name}' if name else ''} {_NO_FORM}: run this network on the CPU"


def without_form(calls: Sequence[tuple[str, Fields]], names: Sequence[str]) -> str:
    """The message for the first step that has no form on a GPU; "" if all have one."""
    steps = [_missing(kind, fields) for kind, fields in calls if kind not in TENSORS]
    return next((no_form(missing, name) for missing, name in zip(steps, names, strict=True) if missing), "")


# ----------------------------------------------------------------------------------------------------------------- parts of steps


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
        "residual": place_or_none(fields.get("residual")),
        "targets": [_target(*each) for each in zip(targets, thresholds, after, strict=True)],
    }


def _target(place: Any, thresholds: Any, after: Any) -> dict[str, Any]:
    values, flip = (None, None) if thresholds is None else thresholds
    then = after or {}
    return {
        "place": pair(place),
        "thresholds": values,
        "flip": None if flip is None else -np.asarray(flip).astype(np.int32),
        "table": then.get("table"),
        "other": place_or_none(then.get("other")),
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
    stride, dilation = pair(fields["stride"]), pair(fields["dilation"])
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
    tensor, kernel = b.tensors[fields["source"]], pair(fields["kernel"])
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
    b.network.linear_floats(source=int(fields["source"]), target=pair(fields["target"]), weights=fields["weights"], bias=fields["bias"])


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
        target=pair(fields["target"]),
        rows=fields["rows"],
        columns=fields["columns"],
        dilation=pair(fields["dilation"]),
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
        target=pair(fields["target"]),
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
        target=pair(fields["target"]),
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
        target=pair(fields["target"]),
        codes=tables.get("codes"),
        values=tables.get("values"),
        per_channel=len(table) > 1,
    )


def _combine(b: Builder, fields: Fields) -> None:
    b.network.combine(
        operands=[pair(place) for place in fields["operands"]],
        targets=[pair(place) for place in fields["targets"]],
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
    "rows": sequences.rows,
    "product": sequences.product,
    "attention": sequences.attention,
    "dynamic_linear": sequences.dynamic_linear,
    "grouped_linear": sequences.grouped_linear,
    "recurrent": sequences.recurrent,
}
"""By the name that plans and saved files have for a kind of step."""
