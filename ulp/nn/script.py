"""The calls that built a plan, in order: they build the same plan in another process and on another CPU.

A script as a document is a list of calls of `_core.Plan`, [name, argument, ...]. A step's arguments are its fields, in the order of
`_core.plan_steps()`, to which new ones are only appended. Each is as JSON has it, but for

    {"$array": name}                                         an array of the file
    {"$packed": name, "k": K, "n": N, "bits": b, "signed": s}  packed weights, whose bytes are an array of the file
    {"$float": "inf"}                                          and "-inf", "nan"

Packed weights take b bits per weight, in the layout that every kernel expands from (csrc/pack/layout.h), the same on every CPU; what a
kernel needs besides is made when the plan is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp import _core
from ulp._progress import progress_bar
from ulp._validate import integer

Arrays = dict[str, npt.NDArray[Any]]

# The arguments of each call, in the order of saved files.
TENSORS = {"codes": ("height", "width", "channels", "bits", "zero", "scale"), "floats": ("height", "width", "channels")}
_STEPS = _core.plan_steps()
_FIELDS = TENSORS | _STEPS

# Known networks have some hundred layers.
MAX_CALLS = 2**14


class Script:
    """A plan that records how it is built. Its methods are those of `_core.Plan` that build one; arguments go by name."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.group = 1
        self.throughput = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _FIELDS:
            raise AttributeError(name)
        method = getattr(self.plan, name)

        def call(**fields: Any) -> Any:
            result = method(**fields)
            self.calls.append((name, fields))
            return result

        return call

    def finalize(self, group: int, throughput: bool, tune: bool, progress: bool = False) -> None:
        """`_core.Plan.finalize`. progress: show a bar while steps are tuned."""
        self.group, self.throughput = group, throughput
        if not (tune and progress):
            self.plan.finalize(group, throughput, tune)
            return
        bar = iter(progress_bar(self.plan.steps(), progress, "tune", "step"))
        self.plan.finalize(group, throughput, tune, lambda: next(bar, None))
        next(bar, None)  # which ends it

    def has(self, name: str) -> bool:
        """Whether the plan has a step of this kind."""
        return any(called == name for called, _ in self.calls)

    def document(self, arrays: Arrays, prefix: str = "") -> dict[str, Any]:
        """The script as JSON has it. What it refers to is put into `arrays`, under names that begin with `prefix`.

        Each convolution is stored with the method that computes it now, and the document with the ISA for which it was chosen: it may
        have been chosen by timing.
        """
        names: dict[int, str] = {}
        calls = []
        for i, (name, arguments) in enumerate(self._arguments()):
            calls.append([name, *(encode(value, arrays, f"{prefix}{i}.{name}.{j}", names) for j, value in enumerate(arguments))])
        return {"group": self.group, "throughput": self.throughput, "isa": _core.isa(), "calls": calls}

    def document_beside(self, like: Script, arrays: Arrays, prefix: str = "") -> dict[str, Any]:
        """As `document`, of a script with the same calls as `like`, which is stored, too: what is the same in both is stored once.

        Such a value is {"$like": null}, and an array that is the beginning of the other one {"$like": shape}.
        """
        calls = []
        for i, ((name, arguments), (_, others)) in enumerate(zip(self._arguments(), like._arguments(), strict=True)):
            made = (_encode_beside(x, y, arrays, f"{prefix}{i}.{name}.{j}") for j, (x, y) in enumerate(zip(arguments, others, strict=True)))
            calls.append([name, *made])
        return {"group": self.group, "throughput": self.throughput, "isa": _core.isa(), "calls": calls}

    def _arguments(self) -> Iterator[tuple[str, list[Any]]]:
        """The calls with their arguments in the order of saved files."""
        steps = iter(self.plan.steps())
        for name, fields in self.calls:
            step = next(steps) if name in _STEPS else None
            method = {"method": step["method"]} if step is not None and name == "conv" else {}
            yield name, [(fields | method).get(field) for field in _FIELDS[name]]


def replay(
    document: object,
    arrays: Mapping[str, npt.NDArray[Any]],
    new_plan: Callable[[], Any],
    *,
    tune: bool,
    max_bytes: int,
    like: Script | None = None,
) -> Script:
    """A finished plan from what `Script.document` gave, and its script; `new_plan` makes an empty one.

    like: the other script, for what `Script.document_beside` gave.

    tune: time the methods of each convolution here and now. Otherwise the document's methods are used if it comes from this ISA and they
    exist here, else those that the rules prefer.
    max_bytes: what activations and results of one image may take. Tuning runs the plan, so a document that is not trusted is replayed
    without first.
    ValueError where the document is malformed, or the plan refuses a call.
    """
    if not isinstance(document, dict) or not isinstance(document.get("calls"), list):
        raise ValueError("a plan is an object with a list of calls")
    if len(document["calls"]) > MAX_CALLS:
        raise ValueError(f"it has {len(document['calls'])} calls; at most {MAX_CALLS} are accepted")
    if like is not None and len(document["calls"]) != len(like.calls):
        raise ValueError(f"it has {len(document['calls'])} calls, and the plan that it is stored beside {len(like.calls)}")
    if not tune and document.get("isa") == _core.isa():
        try:
            return _replay(document, arrays, Script(new_plan()), like, tune=False, hints=True, max_bytes=max_bytes)
        except ValueError:
            pass  # another thread may have limited the ISA meanwhile (`set_isa`); what is wrong otherwise is raised again
    return _replay(document, arrays, Script(new_plan()), like, tune=tune, hints=False, max_bytes=max_bytes)


def _replay(
    document: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    script: Script,
    like: Script | None,
    *,
    tune: bool,
    hints: bool,
    max_bytes: int,
) -> Script:
    decode = Decoder(arrays, max_bytes)
    elements = 0
    for i, call in enumerate(document["calls"]):
        if not isinstance(call, list) or not call or not isinstance(call[0], str) or call[0] not in _FIELDS:
            raise ValueError(f"call {i} is no list that begins with one of {', '.join(_FIELDS)}")
        name = call[0]
        try:
            others = _others(like, i, name, call[1:])
            arguments = [decode(arg, other=other) for arg, other in zip(call[1:], others, strict=True)]
            if name in TENSORS:
                elements += math.prod(integer(side, "a side", 1, 2**24) for side in arguments[:3])
                check_bytes(elements, max_bytes)
            if len(arguments) > len(_FIELDS[name]):
                raise ValueError(f"it has {len(arguments)} arguments, at most {len(_FIELDS[name])} are known")
            fields = dict(zip(_FIELDS[name], arguments, strict=False))
            if name == "conv":
                _add_conv(script, fields, hints)
            else:
                getattr(script, name)(**fields)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"call {i}, {name}: {_first_line(error)}") from None
    try:
        script.finalize(document.get("group"), document.get("throughput"), tune)  # type: ignore[arg-type]  # the plan checks them
    except (TypeError, ValueError) as error:
        raise ValueError(_first_line(error)) from None
    check_bytes(script.plan.arena_bytes + _result_bytes(script), max_bytes)
    return script


def _others(like: Script | None, i: int, name: str, arguments: list[Any]) -> list[Any]:
    """What each argument of a call is stored beside."""
    if like is None:
        return [_ALONE] * len(arguments)
    known, fields = like.calls[i]
    if known != name or len(arguments) > len(_FIELDS[name]):
        raise ValueError(f"the plan that it is stored beside has {known} there")
    return [fields.get(field) for field, _ in zip(_FIELDS[name], arguments, strict=False)]


def _result_bytes(script: Script) -> int:
    """Of what the outputs give for one image; a tensor that is an output itself lies nowhere else."""
    tensors = []
    results = 0
    for name, fields in script.calls:
        if name in TENSORS:
            tensors.append(fields["height"] * fields["width"] * fields["channels"] * (1 if name == "codes" else 4))
        elif name == "output":
            results += tensors[fields["tensor"]]
    return results


def _add_conv(script: Script, fields: dict[str, Any], hints: bool) -> None:
    """Add a convolution by its method where that is possible, by rule otherwise: the method changes the speed, never the result."""
    if hints and isinstance(fields.get("method"), str):
        try:
            script.conv(**fields)
        except ValueError:
            pass  # if the method was not the reason, the last line raises it again
        else:
            return
    if "method" in fields:
        fields = fields | {"method": None}
    script.conv(**fields)


# Weights of 1 bit in the largest form that a step makes of them: 16 values of 16 bits for 9 weights (Winograd).
_LARGEST_FORM = 29

# Deeper than any value of a call, an attribute or a constant.
_MAX_DEPTH = 8

# In place of the value that another one is stored beside, where there is none.
_ALONE = object()


class Decoder:
    """Back from what `encode` gives; tuples come back as lists. Arrays are copied, so that nothing refers to the file afterwards.

    Raises ValueError where a name is unknown or used twice, as no saved file has it: what is read stays as small as the file.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], max_bytes: int) -> None:
        self.arrays = arrays
        self.max_bytes = max_bytes
        self.used: set[str] = set()
        self.packed: dict[str, tuple[dict[str, Any], _core.Packed]] = {}
        self.table_bytes = 0

    def __call__(self, value: Any, depth: int = 0, other: Any = _ALONE) -> Any:
        """The value that was encoded, which lies `depth` deep in another one. other: what it is stored beside (`document_beside`)."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"a value is nested more than {_MAX_DEPTH} deep")
        if isinstance(value, list):
            return [self(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"$like"}:
            return _likewise(value["$like"], other)
        if value.keys() == {"$float"}:
            if not isinstance(value["$float"], str) or value["$float"] not in ("inf", "-inf", "nan"):
                raise ValueError(f"{value['$float']!r} is neither 'inf', '-inf' nor 'nan'")
            return float(value["$float"])
        if value.keys() == {"$array"}:
            name = value["$array"]
            return self._array(name).copy()
        if value.keys() == {"$packed", "k", "n", "bits", "signed"}:
            return self._weights(value)
        inner = other if isinstance(other, dict) else {}
        return {key: self(item, depth + 1, inner.get(key, _ALONE)) for key, item in value.items()}

    def _array(self, name: object) -> npt.NDArray[Any]:
        if not isinstance(name, str) or name not in self.arrays:
            raise ValueError(f"the file holds no array {name!r:.100}")
        if name in self.used:  # so that a small file stays small
            raise ValueError(f"array {name!r} is used twice")
        self.used.add(name)
        return self.arrays[name]

    def _unpacked(self, name: str, value: dict[str, Any]) -> _core.Packed:
        k, n, bits, signed = (value[key] for key in ("k", "n", "bits", "signed"))
        data = self._array(name)
        if data.dtype != np.uint8 or type(signed) is not bool:
            raise ValueError(f"the packed weights {name!r} are {data.dtype} with signed={signed!r}, expected uint8 with true or false")
        try:
            k, n, bits = (integer(size, what, 0, 2**31) for size, what in ((k, "k"), (n, "n"), (bits, "bits")))
        except TypeError as error:
            raise ValueError(f"the packed weights {name!r}: {error}") from None
        return _core.from_data(data, k, n, bits, signed)

    def _weights(self, value: dict[str, Any]) -> _core.Packed:
        name = value["$packed"]
        if not isinstance(name, str):
            raise ValueError(f"the file holds no array {name!r:.100}")
        if name in self.packed:  # each step that uses them may have them in a form of its own
            self.table_bytes += _LARGEST_FORM * self.packed[name][1].nbytes
        else:
            self.packed[name] = value, self._unpacked(name, value)
        known, packed = self.packed[name]
        if known != value:
            raise ValueError(f"the packed weights {name!r} are used at different sizes")
        self.table_bytes += 8 * packed.k  # a step may note where each of its inputs lies
        check_bytes(self.table_bytes, self.max_bytes)
        return packed


def check_bytes(needed: int, max_bytes: int) -> None:
    """ValueError where the activations of a plan take more than is allowed."""
    if needed > max_bytes:
        raise ValueError(
            f"its activations take {needed} bytes or more, but max_bytes={max_bytes}: pass more if you trust where it comes from"
        )


def encode(value: Any, arrays: Arrays, name: str, packed: dict[int, str]) -> Any:
    """A value as JSON has it; its arrays go to `arrays` under `name`, or, of several, under names that begin so.

    packed: names of the packed weights so far by id, so that none is stored twice.
    """
    if isinstance(value, _core.Packed):
        if id(value) not in packed:
            packed[id(value)] = name
            arrays[name] = value.data
        return {"$packed": packed[id(value)], "k": value.k, "n": value.n, "bits": value.bits, "signed": value.signed}
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"$array": name}
    if isinstance(value, dict):
        return {key: encode(item, arrays, f"{name}.{key}", packed) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item, arrays, f"{name}.{i}", packed) for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    return value


def _encode_beside(value: Any, other: Any, arrays: Arrays, name: str) -> Any:
    """`encode` of a value that is stored beside another one."""
    if value is other or _same(value, other):
        return {"$like": None}
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray) and value.dtype == other.dtype and value.ndim == other.ndim:
        begins = tuple(slice(0, side) for side in value.shape)
        if np.array_equal(value, other[begins]):
            return {"$like": list(value.shape)}
    if isinstance(value, dict) and isinstance(other, dict) and value.keys() == other.keys():
        return {key: _encode_beside(item, other[key], arrays, f"{name}.{key}") for key, item in value.items()}
    return encode(value, arrays, name, {})


def _same(value: Any, other: Any) -> bool:
    """Whether two packed weights or two arrays are alike."""
    if isinstance(value, _core.Packed) and isinstance(other, _core.Packed):
        sizes = [(packed.k, packed.n, packed.bits, packed.signed) for packed in (value, other)]
        return sizes[0] == sizes[1] and np.array_equal(value.data, other.data)
    return isinstance(value, np.ndarray) and isinstance(other, np.ndarray) and value.dtype == other.dtype and np.array_equal(value, other)


def _likewise(shape: object, other: Any) -> Any:
    """The value that one is stored beside, or of an array the beginning of this shape."""
    if other is _ALONE:
        raise ValueError("a value is stored beside another one, and there is none")
    if shape is None:
        return other
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{shape!r} is no shape")
    if not isinstance(other, np.ndarray) or len(shape) != other.ndim or any(a > b for a, b in zip(shape, other.shape, strict=True)):
        raise ValueError(f"{shape!r} is no beginning of the array that it is stored beside")
    return np.ascontiguousarray(other[tuple(slice(0, side) for side in shape)])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
