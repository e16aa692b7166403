"""Calibration data in the forms that people have it, as checked batches: one array per input of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ulp._tensors import as_numpy, is_tensor
from ulp.onnx.model import Array, Port

from .options import check_calibrate, no_batches

Batch = dict[str, Array]

# Rows that run at once: more would only take memory.
_ROWS = 64


def batches_of(calibrate: Any, inputs: Sequence[Port]) -> list[Batch]:
    """calibrate: one array or dict of arrays, or an iterable of batches. A batch is an array, a dict by input name, or a tuple: of
    the first inputs and a dict of the others; or of the inputs, or one tuple or dict of them, and labels, which are left alone, as a
    DataLoader gives them. Arrays may be torch tensors.

    Gives batches of at most 64 rows, or of as many as the model fixes. TypeError and ValueError name the batch, what is wrong and the fix.
    """
    check_calibrate(calibrate)
    single = _is_array(calibrate) or isinstance(calibrate, Mapping) or (isinstance(calibrate, tuple) and _is_call(calibrate, inputs))
    given: Iterable[Any] = [calibrate] if single else calibrate
    found: list[Batch] = []
    for i, item in enumerate(given):
        found += _split(_checked(item, inputs, f"calibrate[{i}]"), inputs, f"calibrate[{i}]")
    if not found:
        raise no_batches()
    for port in inputs:
        if port.dtype.kind == "f":
            _check_varies([batch[port.name] for batch in found], port.name)
    return found


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or is_tensor(x)


def _is_call(calibrate: tuple[Any, ...], inputs: Sequence[Port]) -> bool:
    """Whether it is one batch: arrays of the first inputs and a dict of the others."""
    return len(inputs) > 1 and len(calibrate) > 1 and _is_array(calibrate[0]) and isinstance(calibrate[-1], Mapping)


def _checked(item: Any, inputs: Sequence[Port], what: str) -> Batch:
    names = [port.name for port in inputs]
    if isinstance(item, Mapping):
        if missing := [name for name in names if name not in item]:
            raise ValueError(f"{what} has no input {missing[0]!r}: the model reads {', '.join(names)}")
        arrays = [item[name] for name in names]
    elif isinstance(item, (tuple, list)) and item and isinstance(item[0], (tuple, list, Mapping)):
        return _checked(item[0], inputs, f"{what}[0]")
    elif isinstance(item, (tuple, list)) and len(item) >= len(names) and all(_is_array(x) for x in item[: len(names)]):
        arrays = list(item[: len(names)])
    elif isinstance(item, (tuple, list)) and item and isinstance(item[-1], Mapping):
        # As the example of a torch model: what is no array is part of the model.
        positional = [x for x in item[:-1] if _is_array(x)]
        return _checked({**dict(zip(names, positional, strict=False)), **item[-1]}, inputs, what)
    elif isinstance(item, (tuple, list)) and len(names) > 1:
        arrays_given = sum(_is_array(x) for x in item)
        raise ValueError(
            f"{what} is a {type(item).__name__} with {arrays_given} arrays, and the model has the inputs {', '.join(names)}: give a dict "
            f"by these names, or a tuple with an array for each"
        )
    elif _is_array(item) and len(names) == 1:
        arrays = [item]
    elif _is_array(item):
        raise ValueError(
            f"{what} is one array, and the model has {len(names)} inputs: give a list of batches, each a dict with {', '.join(names)}"
        )
    else:
        raise TypeError(
            f"{what} of type {type(item).__name__}: expected an array, a dict by input name ({', '.join(names)}), or a tuple (x, ...)"
        )
    found = {
        port.name: _array(x, port, what if len(inputs) == 1 else f"{what}[{port.name!r}]") for port, x in zip(inputs, arrays, strict=True)
    }
    _check_sides(found, inputs, what)
    return found


def _check_sides(batch: Batch, inputs: Sequence[Port], what: str) -> None:
    """ValueError where open sides that the model calls alike, such as the batch, differ."""
    seen: dict[str, tuple[int, str]] = {}
    for port in inputs:
        for i, (side, size) in enumerate(zip(port.shape or (), batch[port.name].shape, strict=False)):
            if isinstance(side, str) and side.isidentifier():
                first, owner = seen.setdefault(side, (size, port.name))
                if first != size and 1 not in (first, size):
                    raise ValueError(
                        f"{what}: side {i} of input {port.name!r} is {size}, and that of {owner!r} {first}: the model calls both {side!r}"
                    )


def _array(x: Any, port: Port, what: str) -> Array:
    array = np.asarray(as_numpy(x, what))
    kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b"}.get(port.dtype.kind, port.dtype.kind)
    if array.dtype.kind not in kinds:
        raise TypeError(f"{what} is {array.dtype}, and input {port.name!r} is {port.dtype}: convert it as for a call of the model")
    if port.shape is not None:
        fits = array.ndim == len(port.shape) and all(
            not isinstance(side, int) or i == 0 or size == side for i, (size, side) in enumerate(zip(array.shape, port.shape, strict=True))
        )
        if not fits:
            sides = ", ".join("any" if not isinstance(side, int) else str(side) for side in port.shape)
            raise ValueError(f"{what} has shape {list(array.shape)}, and input {port.name!r} takes [{sides}]")
    if array.size == 0:
        raise ValueError(f"{what} is empty, of shape {list(array.shape)}: give at least one input")
    array = np.ascontiguousarray(array, port.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        fix = "; give a mask of attention as bool, or with -1e9 for -inf" if np.isneginf(array).any() else ""
        raise ValueError(f"{what} holds a NaN or an infinity: no range can be found from it{fix}")
    return array


def _split(batch: Batch, inputs: Sequence[Port], what: str) -> list[Batch]:
    """Batches of the model's own size, or of at most 64."""
    fixed = {port.shape[0] for port in inputs if port.shape and isinstance(port.shape[0], int)}
    sides = {array.shape[:1] for array in batch.values()}
    if len(sides) != 1 or sides == {()} or len(fixed) > 1 or not all(port.shape for port in inputs):
        return [batch]  # inputs that have no batch in common: as they are
    (rows,) = sides.pop()
    size = int(fixed.pop()) if fixed else _ROWS
    if rows % size and any(isinstance(port.shape[0], int) for port in inputs if port.shape):
        raise ValueError(f"{what} has {rows} rows, and the model takes {size} at once: give a multiple of {size}")
    return [{name: array[i : i + size] for name, array in batch.items()} for i in range(0, rows, size)]


def _check_varies(arrays: Sequence[Array], name: str) -> None:
    first = arrays[0].flat[0]
    if all((array == first).all() for array in arrays) and sum(array.size for array in arrays) > 1:
        raise ValueError(f"calibrate: input {name!r} is {first:g} everywhere, and no range can be found from that: give real inputs")


def some_rows(batches: Sequence[Batch], rows: int, inputs: Sequence[Port]) -> list[Batch]:
    """So many rows from the beginnings of all batches; whole batches where the model fixes how many it takes, or where a batch's arrays
    have different numbers of them."""
    share = max(1, rows // len(batches))
    if any(isinstance(port.shape[0], int) for port in inputs if port.shape):
        return list(batches[: max(1, rows)])
    found: list[Batch] = []
    for batch in batches[: max(1, rows)]:
        sides = {array.shape[:1] for array in batch.values()}
        found.append({name: array[:share] for name, array in batch.items()} if len(sides) == 1 and sides != {()} else batch)
    return found


def spread_rows(batches: Sequence[Batch], rows: int, inputs: Sequence[Port]) -> list[Batch]:
    """So many rows from everywhere, as one batch, the same however they came in batches; as `some_rows` where shapes differ."""
    shapes = {tuple(array.shape[1:] for array in batch.values()) for batch in batches}
    counts = [{array.shape[:1] for array in batch.values()} for batch in batches]
    fixed = any(isinstance(port.shape[0], int) for port in inputs if port.shape)
    if fixed or len(shapes) > 1 or any(len(sides) != 1 or sides == {()} for sides in counts):
        return some_rows(batches, rows, inputs)
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    ends = np.cumsum(sizes)
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(rows, ends[-1])).astype(int))
    places = [(i := int(np.searchsorted(ends, row, "right")), row - (ends[i] - sizes[i])) for row in chosen]
    return [{name: np.stack([batches[i][name][row] for i, row in places]) for name in batches[0]}]


def open_shapes(inputs: Sequence[Port], batches: Sequence[Batch]) -> dict[str, tuple[int, ...]]:
    """The shapes, for a batch of one, of inputs with other open sides than the first, if all batches have the same."""
    found = {}
    for port in inputs:
        shapes = {batch[port.name].shape[1:] for batch in batches}
        if port.shape is not None and any(not isinstance(side, int) for side in port.shape[1:]) and len(shapes) == 1:
            found[port.name] = (port.shape[0] if isinstance(port.shape[0], int) else 1, *shapes.pop())
    return found
