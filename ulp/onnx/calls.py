"""What lies around the stages of a call: inputs are checked, results get their types, and a network of one stage is called directly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ulp._tensors import as_numpy, as_tensor, is_tensor
from ulp.nn.compiled import SizeError

from .model import Array, OnnxError, Port
from .stages import IntegerStage, IslandStage, Stage

Direct: TypeAlias = Callable[[Sequence[Any], dict[str, Any]], Any]


def checked(port: Port, x: Any, sides: dict[str, int]) -> Any:
    """x in the file's type. sides: the sizes of named sides in this call. TypeError, ValueError."""
    if port.dtype == object:
        return x  # a list, text, or None: onnxruntime knows which
    array = _typed(port, x)
    check_shape(port, array.shape, sides)
    return np.ascontiguousarray(array).reshape(array.shape)


def check_shape(port: Port, shape: Sequence[int], sides: dict[str, int]) -> None:
    """ValueError unless the shape is one that the file allows. sides: the sizes of named sides in this call."""
    if port.shape is None:
        return
    fits = len(shape) == len(port.shape)
    for side, expected in zip(shape, port.shape, strict=False):
        known = sides.setdefault(expected, side) if isinstance(expected, str) else expected
        fits = fits and known in (None, side)
    if not fits:
        rest = zip(shape[1:], port.shape[1:], strict=False)
        one = port.shape[:1] == (1,) and len(shape) == len(port.shape) and all(not isinstance(b, int) or a == b for a, b in rest)
        batch = ", or another batch by shapes= in ulp.load where the model, which computes with its batch, allows it" if one else ""
        raise ValueError(f"{port.name} has shape {list(shape)}: expected {shape_text(port.shape)}{batch}")


def other_size(sources: Sequence[str], error: SizeError) -> OnnxError:
    """The error of an integer part that was compiled for other sides, which the file leaves open."""
    parts = ", ".join(map(repr, sources))
    return OnnxError(
        f"the integer part that reads {parts} is for shape {error.expected}, and got {error.found}: shapes= loads it for others"
    )


def finished(port: Port, array: Array) -> Array:
    """A result in the type that the file gives it."""
    if port.dtype != np.float16 or array.dtype.kind != "f" or array.dtype == port.dtype:
        return array
    with np.errstate(over="ignore"):  # to infinity, as in the file's own type
        return array.astype(np.float16)


def shape_text(shape: tuple[int | str | None, ...]) -> str:
    """("N", 3) -> "[N, 3]"; what has no name is "?"."""
    return "[" + ", ".join("?" if side is None else str(side) for side in shape) + "]"


def _typed(port: Port, x: Any) -> Array:
    """x in the input's type. TypeError unless it has that, or both are floats."""
    array = np.asarray(x)
    if array.dtype == port.dtype:
        return array
    if not (array.dtype.kind == "f" and port.dtype.kind == "f"):
        raise TypeError(f"{port.name} has dtype {array.dtype}: expected {port.dtype}")
    with np.errstate(over="ignore"):
        return array.astype(port.dtype)


def direct(inputs: Sequence[Port], outputs: Sequence[Port], stages: Sequence[Stage]) -> Direct | None:
    """A function that only calls the one stage that there is, without a dictionary of tensors. It gives None for what it leaves to others.

    None where there are several stages, or where the stage's inputs and outputs are not the model's.
    """
    if len(stages) != 1:
        return None
    stage = stages[0]
    if isinstance(stage, IntegerStage):
        return _plan(inputs, outputs, stage)
    return _island(inputs, outputs, stage) if isinstance(stage, IslandStage) else None


def _plan(inputs: Sequence[Port], outputs: Sequence[Port], stage: IntegerStage) -> Direct | None:
    if len(inputs) != 1 or len(outputs) != 1 or stage.sources != (inputs[0].name,) or stage.results != (outputs[0].name,):
        return None
    source, result = inputs[0], outputs[0]
    compiled = stage if stage.codes else stage.compiled
    takes = np.dtype(np.float32) if source.name not in stage.codes else source.dtype

    def run(arrays: Sequence[Any], named: dict[str, Any]) -> Any:
        if len(arrays) != 1 or named:
            return None
        x = arrays[0]
        try:
            if getattr(x, "dtype", None) == takes:
                return compiled(x)[0]
            made = finished(result, compiled(_typed(source, as_numpy(x, source.name)).astype(takes, copy=False))[0])
        except SizeError as error:
            check_shape(source, np.shape(x), {})
            raise other_size(stage.sources, error) from error
        return as_tensor(made) if is_tensor(x) else made

    return run


def _island(inputs: Sequence[Port], outputs: Sequence[Port], stage: IslandStage) -> Direct | None:
    session = stage.session
    places = {name: i for i, name in enumerate(stage.reads)}
    made = {name: i for i, name in enumerate(stage.makes)}
    if not places.keys() <= {port.name for port in inputs} or not all(port.name in made for port in outputs):
        return None
    # Arrays go in and come out as the file has them, and nothing is converted.
    given = {port.name: port.dtype for port in inputs}
    if any(session.inputs[i][1] != given[name] for name, i in places.items()):
        return None
    if any(port.dtype != session.results[made[port.name]][1] for port in outputs):
        return None
    checks = quick(inputs)
    # An island of all inputs, under their own names, takes the dictionary of arrays as it is.
    same = set(given) == {session.inputs[i][0] for name, i in places.items() if session.inputs[i][0] == name}
    names = [session.results[made[port.name]][0] for port in outputs]
    results = [port.name for port in outputs]
    several = len(outputs) > 1

    def run(arrays: Sequence[Any], named: dict[str, Any]) -> Any:
        feeds = checks(arrays, named)
        if feeds is None:
            return None
        found = session.run(names, feeds if same else {session.inputs[i][0]: feeds[name] for name, i in places.items()})
        return dict(zip(results, found, strict=True)) if several else found[0]

    return run


def quick(inputs: Sequence[Port]) -> Callable[[Sequence[Any], dict[str, Any]], dict[str, Any] | None]:
    """A function of a call's arguments: the arrays by name, in the dictionary of those that were named if all were.

    It gives None where something else than an array of the very type was given, or not as many as there are inputs. Every step counts: a
    small island takes some microseconds, and this code is never in the cache. Raises ValueError where shapes do not fit.
    """
    # Arrays of a type nearly always have the same object for it; those that have not take the long way.
    ports = [(port.name, np.dtype(port.dtype.str)) for port in inputs]
    keys = [port.name for port in inputs]
    seen: list[tuple[tuple[int, ...], ...]] = [()]
    any_object = any(port.dtype == object for port in inputs)

    def check(arrays: Sequence[Any], named: dict[str, Any]) -> dict[str, Any] | None:
        feeds = named
        if arrays:
            feeds = dict(zip(keys, arrays, strict=False))
            feeds.update(named)
            if len(arrays) + len(named) != len(keys):
                return None
        if any_object or len(feeds) != len(keys):
            return None
        shapes = []
        for name, dtype in ports:
            x = feeds.get(name)
            if type(x) is not np.ndarray or x.dtype is not dtype:
                return None
            shapes.append(x.shape)
        found = tuple(shapes)
        if found != seen[0]:
            sides: dict[str, int] = {}
            for port, shape in zip(inputs, found, strict=True):
                check_shape(port, shape, sides)
            seen[0] = found
        return feeds

    return check
