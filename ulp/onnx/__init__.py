"""Running trained low-bit networks from ONNX files: QONNX, QCDQ, QDQ and QLinear operators. Reading them needs the package `onnx`.

>>> network = ulp.load("model.onnx")
>>> logits = network(images)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ulp._validate import integer
from ulp.nn.compiled import Hint
from ulp.nn.saved import is_saved

from .build import Built, Compilation, build
from .limits import Limits
from .model import Model, OnnxError, Port
from .network import OnnxNetwork, load_saved
from .normalise import normalise
from .reader import read
from .stages import FloatStage, IntegerStage, LayerRow
from .table import layer_rows, without_compute

__all__ = ["FloatStage", "IntegerStage", "LayerRow", "Limits", "OnnxError", "OnnxNetwork", "load"]


def load(
    source: Any,
    *,
    strict: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    mode: str | None = None,
    hint: Hint | None = None,
    group: int | None = None,
    tune: bool | None = None,
    limits: Limits | None = None,
    progress: bool = True,
) -> OnnxNetwork:
    """Load a quantized model: QONNX (Quant, BipolarQuant, Trunc), QCDQ, QDQ of 2 to 8 bits, or QLinear operators; or one that was saved.

    source: a path, the bytes of a file, or an onnx.ModelProto; or what `OnnxNetwork.save` wrote, which needs no package onnx. That comes
        back with the shapes, mode, hint and group of then: arguments that ask for others are refused.
    strict: refuse a model if a node that computes would run in floats; the error gives the reason for each.
    shapes: of inputs whose shape the file leaves open, such as {"x": (1, 3, 224, 224)}. A batch size needs none.
    mode: "requantize" (the default): as ONNX's integer operators define it, rint(float32(acc) * (x_scale * w_scale / y_scale)) + zero, bit
        for bit what onnxruntime computes where its sums do not saturate; "threshold": each code by exact integer thresholds.
    hint, group: as for `ulp.nn.compile`, "latency" and 1 by default. tune: as there, and by default True for a model, False for what was
        saved.
    limits: how large a file may be, and what it may ask for. progress: show a progress bar, as `ulp.nn.compile` does.

    Integer layers are exact. Other nodes (an activation that is not quantized, a softmax) run in between as numpy operators; print() the
    result for the table of layers. A batch size that is fixed in the file binds only models that are not integer as a whole.
    Raises OnnxError, a ValueError, naming node, operator and reason; ImportError without the package onnx.
    """
    if mode not in (None, "requantize", "requantise", "threshold"):
        raise ValueError(f"mode={mode!r}: expected 'requantize' or 'threshold'")
    if hint not in (None, "latency", "throughput"):
        raise ValueError(f"hint={hint!r}: expected 'latency' or 'throughput'")
    group = None if group is None else integer(group, "group", 1, 2**16)
    limits = limits or Limits()
    if is_saved(source):
        network = load_saved(source, tune=bool(tune), limits=limits)
        _check_saved(network, strict=strict, shapes=shapes, mode=mode, hint=hint, group=group)
        return network
    model = read(source, limits)
    compilation = Compilation(
        "threshold" if mode == "threshold" else "requantise", hint or "latency", group or 1, tune is not False, progress
    )
    normal = normalise(model)
    built = build(normal, _shapes(model, dict(shapes or {})), compilation, limits)
    if strict:
        _check_strict(normal, built)
    return OnnxNetwork(model.inputs, model.outputs, built.stages, built.constants, layer_rows(normal, built), model.opset, limits)


def _check_saved(
    network: OnnxNetwork,
    *,
    strict: bool,
    shapes: Mapping[str, Sequence[int]] | None,
    mode: str | None,
    hint: Hint | None,
    group: int | None,
) -> None:
    """OnnxError where a saved network is not what these arguments of `load` ask for: nothing of it can be changed any more."""
    again = "what was saved cannot be changed: load the model that it was made from"
    if shapes:
        raise OnnxError(f"shapes={dict(shapes)!r} for a saved network; {again}")
    wanted = {"mode": "requantise" if mode == "requantize" else mode, "hint": hint, "group": group}
    for stage in network.stages:
        if isinstance(stage, IntegerStage):
            for name, value in wanted.items():
                saved = getattr(stage.compiled, name)
                if value not in (None, saved):
                    saved = "requantize" if saved == "requantise" else saved
                    raise OnnxError(f"{name}={value!r} for a network that was saved with {name}={saved!r}; {again}")
    for row in network.layers:
        if strict and not row.integer and not without_compute(row):
            raise OnnxError(f"strict=True, and in the saved network {row.name} ({row.op_type}) runs in floats: {row.reason}")


def _shapes(model: Model, given: dict[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The shape of each input, with a batch of one where the file leaves it open."""
    names = [port.name for port in model.inputs]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise OnnxError(f"shapes names {unknown[0]!r}, which is no input: the model has {', '.join(names)}")
    return {port.name: _shape(port, given.get(port.name)) for port in model.inputs}


def _shape(port: Port, given: Sequence[int] | None) -> tuple[int, ...]:
    shape = port.shape
    if given is not None:
        sides = tuple(integer(side, f"shapes[{port.name!r}]", 1, 2**31) for side in given)
        if shape is not None and (
            len(shape) != len(sides) or any(isinstance(s, int) and s != side for s, side in zip(shape, sides, strict=True))
        ):
            raise OnnxError(f"shapes[{port.name!r}]={sides} does not fit the input's shape {shape}")
        return sides
    open_sides = shape is None or any(not isinstance(side, int) for side in shape[1:])
    if shape is None or open_sides:
        raise OnnxError(f"the file leaves the shape {shape} of input {port.name!r} open: pass shapes={{{port.name!r}: (1, 3, 224, 224)}}")
    return tuple(side if isinstance(side, int) else 1 for side in shape)


def _check_strict(model: Model, built: Built) -> None:
    """OnnxError where a node that computes would run in floats."""
    steps = [stage for stage in built.stages if isinstance(stage, FloatStage) and not without_compute(stage.node)]
    if steps:
        lines = "\n".join(f"  {step.node}: {step.reason}" for step in steps)
        raise OnnxError(f"strict=True, and {len(steps)} of {len(model.nodes)} nodes would run in floats:\n{lines}")
