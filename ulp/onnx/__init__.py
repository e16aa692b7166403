"""Running trained low-bit networks from ONNX files: QONNX, QCDQ, QDQ and QLinear operators. Reading them needs the package `onnx`.

>>> network = ulp.load("model.onnx")
>>> logits = network(images)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ulp._options import check_options
from ulp._validate import integer
from ulp.nn.compiled import Hint
from ulp.nn.lower import Mode
from ulp.nn.on_gpu import check_device
from ulp.nn.saved import is_saved

from .build import Built, Compilation
from .choice import Choice
from .inference import Inferred, Sides, batch_inside, check_sides, has_no_batch, infer, open_shape, takes_any_batch, with_batches
from .islands import runs_in_island
from .lengths import opened
from .limits import Limits
from .model import Model, OnnxError, Port
from .network import OnnxNetwork, load_saved
from .normalise import normalise
from .reader import read
from .session import available
from .stages import FloatStage, IntegerStage, IslandStage, LayerRow
from .table import IN_PLAN, floats_in_plan, without_compute

if TYPE_CHECKING:
    from ulp.quantize import Quantized

__all__ = ["FloatStage", "IntegerStage", "LayerRow", "Limits", "OnnxError", "OnnxNetwork", "load"]


def load(
    source: Any,
    *,
    strict: bool = False,
    bits: Any = None,
    calibrate: Any = None,
    max_ms: float | str | None = None,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    metric: Callable[[Any], float] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    mode: str | None = None,
    hint: Hint | None = None,
    group: int | None = None,
    tune: bool | None = None,
    limits: Limits | None = None,
    floats: str | None = None,
    functions: str | None = None,
    max_length: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> OnnxNetwork:
    """Load a quantized model: QONNX (Quant, BipolarQuant, Trunc), QCDQ, QDQ of 2 to 8 bits, or QLinear operators; or one that was saved.

    source: a path, the bytes of a file, or an onnx.ModelProto; or what `OnnxNetwork.save` wrote, which needs no package onnx. That comes
        back with the shapes, mode, hint and group of then: arguments that ask for others are refused.
    strict: refuse a model if a node that computes would run in floats; the error gives the reason for each.
    bits, calibrate: quantize a float model first, as `ulp.quantize.quantize` does, which has more options. What that gives, with a
        report per layer, is the attribute `quantized` of the result. bits="float" runs it as it is.
    max_ms, max_drop, max_bytes, metric: the budget of bits="auto", as there. What was chosen is `quantized.choice` of the result.
    shapes: of inputs whose shape the file leaves open, such as {"x": (1, 3, 224, 224)}: integer parts need all sides but the batch. Where
        the first side is no batch but, as the model uses it, the length of a sequence, it is fixed.
    mode: "requantize" (the default): as ONNX's integer operators define it, rint(float32(acc) * (x_scale * w_scale / y_scale)) + zero, bit
        for bit what onnxruntime computes where its sums do not saturate; "threshold": each code by exact integer thresholds.
    hint, group: as for `ulp.nn.compile`, "latency" and 1 by default. tune: as there, and by default True for a model, False for what was
        saved.
    limits: how large a file may be, and what it may ask for.
    floats: what runs nodes that are not integer: "onnxruntime", which runs all that there is in ONNX; or "numpy", which runs what small
        quantized networks need. By default onnxruntime where it is installed.
    functions: as for `ulp.nn.compile`, "float" by default; with "integer" a model is refused if a softmax, a normalization or an activation
        would run in floats.
    max_length: sequences of any length from 1 to so many, 2 or more: the length is what the file leaves open besides the batch, or besides
        what `shapes` says. Results are those of a network for the length at hand, bit for bit; a longer sequence is an error.
    device: "cpu"; "cuda" or "cuda:1", for models all of which is one integer plan with a form on a GPU; or "auto", a GPU if there is one
        and the model runs there, otherwise the CPU. `OnnxNetwork.to` moves a model later.
    progress: show a progress bar, as `ulp.nn.compile` does.

    Integer layers are exact. Other nodes (an activation that is not quantized, a softmax) run in between, neighbouring ones as one session
    of onnxruntime; print() the result for the table of layers. A batch size that the file fixes at one binds only models that compute with
    it. Raises OnnxError, a ValueError, naming node, operator and reason; ImportError without the package onnx.
    """
    check_options(
        {"mode": mode, "hint": hint, "group": group, "floats": floats, "functions": functions, "tune": tune},
        strict=strict,
        progress=progress,
    )
    if max_length is not None:
        max_length = integer(max_length, "max_length", 2, 2**20)
    if not isinstance(shapes, Mapping | None):
        raise TypeError(f"shapes={shapes!r}: expected shapes by the inputs' names, as {{'x': (1, 3, 224, 224)}}")
    limits = Limits.of(limits)
    check_device(device)
    budget = {"max_ms": max_ms, "max_drop": max_drop, "max_bytes": max_bytes, "metric": metric}
    if isinstance(bits, str) and bits.lower() == "float":
        if given := [name for name, value in {"calibrate": calibrate, **budget}.items() if value is not None]:
            raise ValueError(f"{given[0]}= with bits={bits!r}, which quantizes nothing")
        bits = None
    if bits is not None or calibrate is not None or any(value is not None for value in budget.values()):
        return (
            _quantized(source, bits, calibrate, limits, progress, budget)
            .load(
                strict=strict,
                shapes=shapes,
                mode=mode,
                hint=hint,
                group=group,
                tune=tune,
                limits=limits,
                floats=floats,
                functions=functions,
                max_length=max_length,
                progress=progress,
            )
            .to(device)
        )
    if is_saved(source):
        again = load_saved(source, tune=bool(tune), limits=limits)
        _check_saved(
            again,
            strict=strict,
            shapes=shapes,
            mode=mode,
            hint=hint,
            group=group,
            floats=floats,
            functions=functions,
            max_length=max_length,
        )
        return again.to(device)
    model = read(source, limits)
    if max_length is not None:

        def of_shapes(sides: Mapping[str, Sequence[int]]) -> OnnxNetwork:
            same: dict[str, Any] = {"mode": mode, "hint": hint, "group": group, "floats": floats, "functions": functions}
            return load(source, strict=strict, shapes=sides, tune=False, limits=limits, progress=progress, **same)

        return opened(model.inputs, shapes or {}, max_length, of_shapes).to(device)
    how: Mode = "threshold" if mode == "threshold" else "requantize"
    in_islands = available() if floats is None else floats == "onnxruntime"
    compilation = Compilation(how, hint or "latency", int(group or 1), tune is None or bool(tune), progress, in_islands)
    compilation = replace(compilation, integer_functions=functions == "integer")
    model, normal, one, free, inside, one_shape = _shaped(model, dict(shapes or {}), limits, in_islands)
    choice = Choice(model, normal, one, free, inside, compilation, limits)
    built = choice.built()
    if compilation.integer_functions:
        _check_functions(built)
    if strict:
        _check_strict(normal, built)
    elif in_islands and compilation.tune and not compilation.integer_functions and how == "requantize":
        return choice.fastest(built, one_shape).to(device)
    return choice.network(built).to(device)


class _Shaped(NamedTuple):
    """A model with what is known of its tensors: for a batch of one, and `free`, for a larger one and any sides that the file leaves open.

    inside: see `batch_inside`. shapes: of the inputs, for a batch of one.
    """

    model: Model
    normal: Model
    one: Inferred
    free: Inferred
    inside: frozenset[str]
    shapes: dict[str, Sides | None]


def _shaped(model: Model, given: dict[str, Sequence[int]], limits: Limits, in_islands: bool) -> _Shaped:
    """The model as read and as normalised, with its inputs' shapes and what follows from them."""
    model, one_shape, many_shapes = _shapes(model, given)
    normal = normalise(model, in_islands)
    one = infer(normal, one_shape, limits)
    many = infer(normal, many_shapes, limits)
    fixed = {port.name for port in model.inputs if port.shape and port.shape[0] == 1}
    if fixed and takes_any_batch(normal, one, many, _BATCH):
        model = _any_batch(model)
    elif fixed and len(fixed) == len(one_shape):
        many = one
    elif fixed:
        many_shapes |= {name: one_shape[name] for name in fixed}
        many = infer(normal, many_shapes, limits)
    elif given and has_no_batch(normal, one, many):  # then shapes= says how long sequences are
        model = replace(model, inputs=[_as_given(port, one_shape[port.name]) for port in model.inputs])
        many = one = replace(one, fixed=True)
    check_sides(one, many)
    # Islands take any sides that the file leaves open, whatever shapes= says.
    free = infer(normal, _left_open(model, one_shape if many is one else many_shapes), limits) if given else many
    return _Shaped(model, normal, with_batches(one, many), free, batch_inside(one, many), one_shape)


def _quantized(source: Any, bits: Any, calibrate: Any, limits: Limits | None, progress: bool, budget: dict[str, Any]) -> Quantized:
    """The float model, quantized. ValueError where bits or calibrate is missing, OnnxError for a saved network."""
    if bits is None or calibrate is None:
        missing, given = ("bits", "calibrate") if bits is None else ("calibrate", "bits")
        if bits is None and calibrate is None:
            given = next(name for name, value in budget.items() if value is not None)
        raise ValueError(f"{given}= without {missing}=: quantizing a float model needs both, such as bits=4, calibrate=images[:256]")
    if is_saved(source):
        raise OnnxError("bits= for a saved network; what was saved cannot be changed: load the model that it was made from")
    from ulp.quantize import quantize

    return quantize(source, bits=bits, calibrate=calibrate, limits=limits, progress=progress, **budget)


# A batch size that nothing else in a model is likely to be.
_BATCH = 7919


def _any_batch(model: Model) -> Model:
    """The model with a first side "N" of inputs and outputs whose first side is 1."""

    def freed(port: Port) -> Port:
        return replace(port, shape=("N", *port.shape[1:])) if port.shape and port.shape[0] == 1 else port

    return replace(model, inputs=[freed(port) for port in model.inputs], outputs=[freed(port) for port in model.outputs])


def _check_saved(
    network: OnnxNetwork,
    *,
    strict: bool,
    shapes: Mapping[str, Sequence[int]] | None,
    mode: str | None,
    hint: Hint | None,
    group: int | None,
    floats: str | None,
    functions: str | None,
    max_length: int | None,
) -> None:
    """OnnxError where a saved network is not what these arguments of `load` ask for: nothing of it can be changed any more."""
    again = "what was saved cannot be changed: load the model that it was made from"
    if shapes:
        raise OnnxError(f"shapes={dict(shapes)!r} for a saved network; {again}")
    for name, given in (("functions", functions), ("max_length", max_length)):
        if given is not None:
            raise OnnxError(f"{name}={given!r} for a saved network; {again}")
    wanted = {"mode": "requantize" if mode == "requantise" else mode, "hint": hint, "group": group}
    for stage in network.stages:
        if isinstance(stage, IntegerStage):
            for name, value in wanted.items():
                saved = getattr(stage.compiled, name)
                if value not in (None, saved):
                    raise OnnxError(f"{name}={value!r} for a network that was saved with {name}={saved!r}; {again}")
    by_onnxruntime = any(isinstance(stage, IslandStage) for stage in network.stages)
    by_numpy = any(isinstance(stage, FloatStage) and runs_in_island(stage.node) for stage in network.stages)
    if (floats == "numpy" and by_onnxruntime) or (floats == "onnxruntime" and by_numpy):
        raise OnnxError(f"floats={floats!r} for a network that was saved with nodes that run otherwise; {again}")
    for row in network.layers:
        if strict and not row.integer and not without_compute(row.op_type):
            raise OnnxError(f"strict=True, and in the saved network {row.op_type} {row.name!r} runs in floats: {row.reason}")


def _shapes(model: Model, given: dict[str, Sequence[int]]) -> tuple[Model, dict[str, Sides | None], dict[str, Sides | None]]:
    """(the model with the sizes of batches that are given, the inputs' shapes for a batch of one, and for a larger one)"""
    names = [port.name for port in model.inputs]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise OnnxError(f"shapes names {unknown[0]!r}, which is no input: the model has {', '.join(names)}")
    inputs: list[Port] = []
    named: dict[str, tuple[str, int]] = {}
    one: dict[str, Sides | None] = {}
    many: dict[str, Sides | None] = {}
    for declared in model.inputs:
        port = _given(declared, given[declared.name]) if declared.name in given else declared
        if port.name in given:
            for name, side in zip(port.shape or (), map(int, given[port.name]), strict=False):
                first, size = named.setdefault(name, (port.name, side)) if isinstance(name, str) else ("", side)
                if size != side:
                    raise OnnxError(f"shapes says that the side {name!r} is {size} of {first!r}, and {side} of {port.name!r}")
        inputs.append(port)
        one[port.name] = many[port.name] = sides = open_shape(port)
        if sides:
            batch = 1 if sides[0] is None else sides[0]
            rest: Sequence[int | None] = sides[1:]
            if port.name in given:
                batch, *rest = (int(side) for side in given[port.name])
            one[port.name] = (batch, *rest)
            many[port.name] = (_BATCH if sides[0] in (None, 1) else sides[0], *rest)
        elif port.name in given:
            one[port.name] = tuple(given[port.name])
    return replace(model, inputs=inputs), one, many


def _as_given(port: Port, shape: Sides | None) -> Port:
    """The port with the first side of this shape."""
    return port if not port.shape or not shape else replace(port, shape=(shape[0], *port.shape[1:]))


def _left_open(model: Model, shapes: Mapping[str, Sides | None]) -> dict[str, Sides | None]:
    """The shapes with all sides but the first as the file has them."""
    sides = ((port.name, open_shape(port), shapes[port.name]) for port in model.inputs)
    return {name: (shape[0], *own[1:]) if own and shape else own for name, own, shape in sides}


def _given(port: Port, given: Any) -> Port:
    """The port if these sides fit it; with their batch, where the file fixes one."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"shapes[{port.name!r}]={given!r}: expected its sides, as (1, 3, 224, 224)")
    sides = tuple(integer(side, f"shapes[{port.name!r}]", 1, 2**31) for side in given)
    shape = port.shape
    if shape is None:
        return port
    if len(shape) != len(sides) or any(isinstance(s, int) and s != side for s, side in zip(shape[1:], sides[1:], strict=True)):
        raise OnnxError(f"shapes[{port.name!r}]={sides} does not fit the input's shape {shape}")
    return replace(port, shape=(sides[0], *shape[1:])) if shape and isinstance(shape[0], int) else port


_FUNCTIONS = (
    *("Softmax", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"),
    *("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Erf", "Tanh", "Sigmoid", "Swish"),
)


def _check_functions(built: Built) -> None:
    """OnnxError where a function of rows would run in floats."""
    found = [stage for stage in built.stages if isinstance(stage, FloatStage) and stage.node.op_type in _FUNCTIONS]
    if found:
        lines = "\n".join(f"  {stage.node}: {stage.reason}" for stage in found)
        raise OnnxError(f"functions='integer', and {len(found)} functions would run in floats:\n{lines}")


def _check_strict(model: Model, built: Built) -> None:
    """OnnxError where a node that computes would run in floats."""
    steps = [
        f"{stage.node}: {stage.reason}"
        for stage in built.stages
        if isinstance(stage, FloatStage) and not without_compute(stage.node.op_type)
    ]
    steps += [f"{node}: {built.scope.reasons[node.name]}" for node in model.nodes if node.name in built.scope.reasons]
    steps += [f"{node}: {IN_PLAN}" for node in model.nodes if node.name in built.layers and floats_in_plan(built.layers[node.name][0])]
    if steps:
        lines = "\n".join(f"  {step}" for step in steps)
        raise OnnxError(f"strict=True, and {len(steps)} of {len(model.nodes)} nodes would run in floats:\n{lines}")
