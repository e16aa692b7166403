"""The table of float operators: the definition of each, how one is bound to a node, and what is checked before it computes.

An operator is a function of numpy arrays. Its row names its inputs with their types, its attributes with their defaults, and the opset
from which this definition holds. `bind` checks once what a file says of a node; the function that it returns checks the arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ulp.onnx.limits import Limits
from ulp.onnx.model import OnnxError

Array: TypeAlias = npt.NDArray[Any]
Bound: TypeAlias = Callable[..., tuple[Array, ...]]

OLDEST_OPSET = 7
NEWEST_OPSET = 28


def _dtypes(names: str) -> tuple[np.dtype[Any], ...]:
    return tuple(np.dtype(name) for name in names.split())


_FLOATS = _dtypes("float16 float32 float64")
_SIGNED = _dtypes("int8 int16 int32 int64")
_UNSIGNED = _dtypes("uint8 uint16 uint32 uint64")
_BOOL = _dtypes("bool")

# The words for types in a row. Inputs of the same word have the same type; a digit behind the word makes it another one.
# Integers of 2 and 4 bits come in int8 and uint8.
_TYPES = {
    "float": _FLOATS,
    "number": _FLOATS + _SIGNED + _UNSIGNED,
    "signed": _FLOATS + _SIGNED,
    "any": _FLOATS + _SIGNED + _UNSIGNED + _BOOL,
    "bool": _BOOL,
    "index": _dtypes("int32 int64"),
    "int": _dtypes("int64"),
    "byte": _dtypes("int8 uint8"),
    "sum": _dtypes("int32"),
    "code": _dtypes("int8 uint8 int16 uint16"),
    "stored": _dtypes("int8 uint8 int16 uint16 int32"),
    "parameter": _FLOATS + _SIGNED + _UNSIGNED,
    "real": _dtypes("float16 float32 float64 int32"),
}

_DEFAULT_LIMITS = Limits()

# What numpy raises for arrays that do not fit each other. Anything else is a bug of ours and is not caught.
_NUMPY_ERRORS = (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Attribute:
    """An attribute that nodes may have. default: its value where it is left out; choices: the strings that are known."""

    kind: Literal["int", "float", "string", "ints", "floats", "tensor"]
    default: Any = None
    required: bool = False
    low: int | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: object, what: str) -> Any:
        """The value in this kind's Python type, or OnnxError."""
        if self.kind in ("ints", "floats"):
            if not isinstance(value, (list, tuple)):
                raise OnnxError(f"{what} is {_type_name(value)}: expected a list of {self.kind}")
            return tuple(self._scalar(element, self.kind[:-1], what) for element in value)
        return self._scalar(value, self.kind, what)

    def _scalar(self, value: object, kind: str, what: str) -> Any:
        if kind == "tensor":
            expected = isinstance(value, np.ndarray)
        else:
            expected = isinstance(value, {"int": int, "float": float, "string": str}[kind]) and not isinstance(value, bool)
        if not expected:
            raise OnnxError(f"{what} is {_type_name(value)}: expected {'an int' if kind == 'int' else 'a ' + kind}")
        if self.choices and value not in self.choices:
            raise OnnxError(f"{what}={value!r:.60}: expected one of {', '.join(self.choices)}")
        if self.low is not None and isinstance(value, int) and value < self.low:
            raise OnnxError(f"{what}={value}: expected {self.low} or more")
        return value


def _type_name(value: object) -> str:
    return f"of type {type(value).__name__}"


@dataclass(frozen=True)
class Input:
    """One input of a row: "scale:float?" may be left out, "inputs:number*" may come any number of times."""

    name: str
    word: str
    types: tuple[np.dtype[Any], ...]
    optional: bool
    repeated: bool

    @classmethod
    def parse(cls, text: str) -> Input:
        """One of the words of a row's inputs."""
        name, word = text.rstrip("?*").split(":")
        return cls(name, word, _TYPES[word.rstrip("0123456789")], text.endswith("?"), text.endswith("*"))

    def check(self, array: Array, types: dict[str, np.dtype[Any]]) -> None:
        """OnnxError unless the array has one of the input's types, and that of the inputs of the same word before it."""
        given = array.dtype
        if given not in self.types:
            raise OnnxError(f"the input {self.name} has type {given}, expected {' or '.join(map(str, self.types))}")
        first = types.setdefault(self.word, given)
        if given != first:
            raise OnnxError(f"the input {self.name} has type {given}, but those before it have {first}")


@dataclass(frozen=True)
class Call:
    """A node without its inputs: every attribute, given or by default, the opset, and how many results the node has.

    kept: what the operator made of a constant in an earlier call. Several threads may put it there, each the same.
    """

    attributes: Mapping[str, Any]
    opset: int
    outputs: int
    limits: Limits
    kept: dict[Any, Any] = field(default_factory=dict, compare=False)

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]

    def allow(self, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        """OnnxError where an array of this shape would be larger than a tensor may be."""
        self.limits.check_tensor(shape, np.dtype(dtype).itemsize)


Function: TypeAlias = Callable[..., "Array | tuple[Array, ...]"]


@dataclass(frozen=True)
class Row:
    """The definition of an operator from opset `since` on. `outputs`: how many a node can have at most, -1 for any number."""

    since: int
    inputs: tuple[Input, ...]
    attributes: Mapping[str, Attribute]
    outputs: int
    function: Function

    def check_node(self, inputs: Sequence[object], outputs: int, attributes: Mapping[str, object]) -> None:
        """OnnxError unless a node may have these inputs, outputs and attributes. inputs: a false one is left out."""
        self.check_counts(len(inputs), outputs)
        self.check_attributes(attributes)
        for i, given in enumerate(inputs):
            if not given and not self.input(i).optional:
                raise OnnxError(f"the input {self.input(i).name} is missing")

    def input(self, i: int) -> Input:
        """The declaration of input i; the last one may stand for many."""
        return self.inputs[min(i, len(self.inputs) - 1)]

    def check_counts(self, inputs: int, outputs: int) -> None:
        """OnnxError unless a node may have this many inputs and outputs."""
        needed = sum(not i.optional for i in self.inputs)
        max_inputs = math.inf if any(i.repeated for i in self.inputs) else len(self.inputs)
        if not needed <= inputs <= max_inputs:
            names = ", ".join(i.name + ("..." if i.repeated else " (optional)" if i.optional else "") for i in self.inputs) or "none"
            raise OnnxError(f"{inputs} inputs, expected {names}")
        if outputs < 1 or 0 <= self.outputs < outputs:
            raise OnnxError(f"{outputs} outputs, expected {'1 or more' if self.outputs < 0 else f'1 to {self.outputs}'}")

    def check_attributes(self, given: Mapping[str, object]) -> dict[str, Any]:
        """All attributes of the row, as given or by default."""
        unknown = sorted(set(given) - set(self.attributes))
        if unknown:
            known = ", ".join(self.attributes) or "none"
            raise OnnxError(f"the attribute {unknown[0]!r:.60} is unknown to the definition of opset {self.since}, which has: {known}")
        values = {}
        for name, attribute in self.attributes.items():
            if name in given:
                values[name] = attribute.check(given[name], name)
            elif attribute.required:
                raise OnnxError(f"the attribute {name} is missing")
            else:
                values[name] = attribute.default
        return values

    def call(self, attributes: Mapping[str, object], opset: int, outputs: int, limits: Limits) -> Call:
        """A node without its inputs. OnnxError for attributes that the row has not."""
        return Call(self.check_attributes(attributes), opset, outputs, limits)

    def check_arrays(self, arrays: Sequence[Array | None]) -> None:
        """OnnxError where an input is missing or has a type that the row does not allow."""
        types: dict[str, np.dtype[Any]] = {}
        for i, array in enumerate(arrays):
            declared = self.input(i)
            if array is not None:
                declared.check(array, types)
            elif not declared.optional:
                raise OnnxError(f"the input {declared.name} is missing")


class Operator:
    """All definitions of one operator. Call it, or bind it to a node that runs more than once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[Row] = []

    def row(self, opset: int) -> Row:
        """The definition that holds at an opset."""
        if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            raise OnnxError(
                f"opset {opset} is outside {OLDEST_OPSET}..{NEWEST_OPSET}, which ulp knows; "
                f"onnx.version_converter.convert_version brings a model to another one"
            )
        fitting = [row for row in self.rows if row.since <= opset]
        if not fitting:
            raise OnnxError(f"{self.name} begins with opset {self.rows[0].since}, but the model is of opset {opset}")
        return fitting[-1]

    def bind(
        self, attributes: Mapping[str, object], opset: int, *, inputs: int, outputs: int = 1, limits: Limits = _DEFAULT_LIMITS
    ) -> Bound:
        """The operator of one node: a function of its inputs, None for those left out, to the tuple of its results.

        attributes: by name: int, float, str, a tuple of int or of float, or an array.
        inputs, outputs: how many the node has, counting those left out in between.
        Raises OnnxError here for what the node says, and from the function for arrays that do not fit or would become too large.
        """
        row = self.row(opset)
        row.check_counts(inputs, outputs)
        call = row.call(attributes, opset, outputs, limits)

        def run(*arrays: Array | None) -> tuple[Array, ...]:
            row.check_arrays(arrays)
            try:
                with np.errstate(all="ignore"):
                    results = row.function(call, *arrays)
            except OnnxError:
                raise
            except _NUMPY_ERRORS as error:
                shapes = ", ".join("none" if a is None else str(list(a.shape)) for a in arrays)
                raise OnnxError(f"inputs of shapes {shapes} do not fit: {error}") from error
            # numpy gives scalars for arrays of no dimension.
            made = tuple(np.asarray(result) for result in (results if isinstance(results, tuple) else (results,)))
            for array in made:
                limits.check_tensor(array.shape, array.dtype.itemsize)
            return made

        return run

    def __call__(self, attributes: Mapping[str, object], opset: int, *inputs: Array | None) -> tuple[Array, ...]:
        """The results for these inputs; as many as the operator always has."""
        return self.bind(attributes, opset, inputs=len(inputs))(*inputs)


OPERATORS: dict[str, Operator] = {}


def operator(
    name: str,
    inputs: str,
    shared: Mapping[str, Attribute] | None = None,
    *,
    since: int = OLDEST_OPSET,
    outputs: int = 1,
    **own: Attribute,
) -> Callable[[Function], Function]:
    """Put a function into the table; the rows of one operator by rising opset.

    inputs: "X:float W:float B:float?", a name and a type each, see `Input`.
    shared, own: the attributes.
    """
    attributes = {**(shared or {}), **own}

    def register(function: Function) -> Function:
        declared = tuple(Input.parse(text) for text in inputs.split())
        OPERATORS.setdefault(name, Operator(name)).rows.append(Row(since, declared, attributes, outputs, function))
        return function

    return register


def integer(default: int | None = None, *, low: int | None = None, required: bool = False) -> Attribute:
    """An int."""
    return Attribute("int", default, required, low)


def number(default: float | None = None) -> Attribute:
    """A float."""
    return Attribute("float", default)


def string(*choices: str) -> Attribute:
    """One of these words, the first one by default."""
    return Attribute("string", choices[0], choices=choices)


def integers(*, low: int | None = None, required: bool = False) -> Attribute:
    """A tuple of int; None by default."""
    return Attribute("ints", None, required, low)
