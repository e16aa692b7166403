"""Networks that take sequences of any length up to a maximum: plans of all lengths derived from those of two.

What the calls that build a plan say of a length T is linear in it: sides of tensors, sizes of products, places of elements; and tables by
position are the beginning of longer ones. So the calls for the maximum and for one less give those for every T (`_between`), and weights
are the same objects in all plans. A plan is made when its length is first seen, by calls alone: nothing is traced, packed or timed again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ulp import _core
from ulp._validate import integer

from . import saved
from .compiled import CompiledNetwork
from .lower import new_plan
from .lowered import Lowered
from .profile import ProfileRow
from .script import TENSORS, Arrays, Script
from .shapes import LayerError, shape_text

# Plans that are kept, those of the lengths that were seen last; each takes the memory of its activations, and no weights.
_KEPT = 256


class UnlikeError(ValueError):
    """Two plans from which no others follow; the message says where they differ."""


class OpenNetwork(CompiledNetwork):
    """A `CompiledNetwork` of any length from 1 to `max_length`. Shapes, table and figures are those of the longest."""

    _kind = "OpenNetwork"

    def __init__(self, longest: CompiledNetwork, shorter: CompiledNetwork, max_length: int) -> None:
        """longest, shorter: the same network at max_length and at one less. Raises UnlikeError."""
        super().__init__(longest._lowered, longest.mode, longest.hint, longest._pack)
        self.max_length = max_length
        self._shorter = shorter
        self._plans: OrderedDict[int, CompiledNetwork] = OrderedDict()
        self._plans[max_length] = longest
        self._lock = threading.Lock()
        self._sides = [
            [i + 1 for i, (one, other) in enumerate(zip(a, b, strict=True)) if one != other]
            for a, b in zip(longest.input_shapes, shorter.input_shapes, strict=True)
        ]
        self._check()

    def _check(self) -> None:
        calls = [lowered.script.calls for lowered in (self._lowered, self._shorter._lowered)]
        if [name for name, _ in calls[0]] != [name for name, _ in calls[1]]:
            raise UnlikeError("its plans have different steps")
        for (name, fields), (_, others) in zip(*calls, strict=True):
            if name in TENSORS and any(fields[side] < others[side] for side in ("height", "width", "channels")):
                raise UnlikeError("a tensor becomes larger as the sequence becomes shorter")
        first = next(((i, sides[0]) for i, sides in enumerate(self._sides) if sides), None)
        if first is None:
            raise UnlikeError("no input has the length as a side")
        self._first = first
        again = self._made(self.max_length - 1)  # what is derived for the other length is what it was
        if again._lowered.ports != self._shorter._lowered.ports or list(again.output_shapes) != list(self._shorter.output_shapes):
            raise UnlikeError("the shapes of its plan are not linear in the length")

    def at(self, length: int) -> CompiledNetwork:
        """The network for this length. LayerError where it is less than 1 or more than the maximum."""
        if not 1 <= length <= self.max_length:
            raise LayerError(f"a sequence of length {length}: the network was made for 1 to max_length={self.max_length}")
        with self._lock:
            found = self._plans.get(length)
            if found is None:
                found = self._plans[length] = self._made(length)
                if len(self._plans) > _KEPT:
                    self._plans.popitem(last=False)
            else:
                self._plans.move_to_end(length)
        return found

    def _made(self, length: int) -> CompiledNetwork:
        less = self.max_length - length
        one, other = self._plans.get(self.max_length, self), self._shorter
        a, b = self._lowered, other._lowered
        steps = iter(a.plan.steps())
        script = Script(new_plan())
        kinds = _core.plan_steps()
        for (name, fields), (_, others) in zip(a.script.calls, b.script.calls, strict=True):
            step = next(steps) if name in kinds else None
            made = {key: _between(value, others.get(key), less, f"{name}.{key}") for key, value in fields.items()}
            if step is not None and name == "conv":
                made["method"] = step["method"] if length == self.max_length else None
            getattr(script, name)(**made)
        script.finalize(a.script.group, a.script.throughput, False)
        inputs, outputs = (
            [tuple(_between(x, y, less, "a shape")) for x, y in zip(ours, theirs, strict=True)]
            for ours, theirs in ((a.input_shapes, b.input_shapes), (a.output_shapes, b.output_shapes))
        )
        return CompiledNetwork(Lowered(script, a.labels, inputs, outputs, a.input_quantizer), one.mode, one.hint, self._pack)

    def _of(self, arrays: Sequence[Any]) -> CompiledNetwork:
        index, side = self._first
        if len(arrays) != len(self.input_shapes):
            raise TypeError(f"{len(arrays)} inputs: the network has {len(self.input_shapes)}")
        shape = tuple(getattr(arrays[index], "shape", np.shape(arrays[index])))
        if len(shape) != len(self.input_shapes[index]) + 1:
            sides = ", ".join("T" if i + 1 == side else str(n) for i, n in enumerate(self.input_shapes[index]))
            raise LayerError(f"the network takes [N, {sides}], T up to {self.max_length}, but got {shape_text(shape)}")
        longest, other = self.input_shapes[index][side - 1], self._shorter.input_shapes[index][side - 1]
        return self.at(self.max_length - (longest - shape[side]) // (longest - other))

    def __call__(self, x: Any, *others: Any) -> Any:
        """As `CompiledNetwork`, of inputs whose length is 1 to max_length. LayerError beyond."""
        return self._of((x, *others))(x, *others)

    run = __call__

    def timed(self, x: Any, *others: Any) -> list[ProfileRow]:
        """The steps of one run."""
        return self._of((x, *others)).timed(x, *others)

    def check_inputs(self, given: tuple[Any, ...]) -> None:
        """As `CompiledNetwork.check_inputs`, at the length of the inputs."""
        self._of(given).check_inputs(given)

    def document(self, arrays: Arrays, prefix: str = "") -> dict[str, Any]:
        """As `CompiledNetwork.document`: the longest plan, and what is another in one for one item less."""
        shorter = self._shorter._lowered
        return {
            "max_length": self.max_length,
            "longest": super().document(arrays, f"{prefix}longest."),
            "shorter": saved.lowered_document(shorter, arrays, f"{prefix}shorter.", like=self._lowered),
        }

    @classmethod
    def from_document(cls, document: object, arrays: Arrays, *, tune: bool, max_bytes: int) -> OpenNetwork:
        """What `document` described, for all lengths up to the maximum. ValueError where that is damaged."""
        known = saved.members(document, "a network of open length", max_length=int, longest=dict, shorter=dict)
        max_length = integer(known["max_length"], "max_length", 2, 2**20)
        longest = CompiledNetwork.from_document(known["longest"], arrays, tune=tune, max_bytes=max_bytes)
        lowered = saved.lowered_from(known["shorter"], arrays, tune=False, max_bytes=max_bytes, like=longest._lowered)
        return cls(longest, CompiledNetwork(lowered, longest.mode, longest.hint, longest._pack), max_length)

    def __reduce__(self) -> Any:
        return load, (b"".join(self._parts()),)

    def to(self, device: Any) -> Any:
        """The network itself for "cpu" and "auto"; ValueError for a GPU, where plans have one length."""
        if device in ("cpu", "auto"):
            return self
        raise ValueError(
            f"device={device!r}: a network with max_length={self.max_length} runs on the CPU only; load it with shapes= instead"
        )


def load(source: saved.Source, *, tune: bool = False, max_bytes: int = saved.MAX_BYTES) -> OpenNetwork:
    """A network of open length that `save` wrote; as `ulp.nn.load`."""
    network = OpenNetwork._read(source, tune, max_bytes)
    assert isinstance(network, OpenNetwork)
    return network


def _between(a: Any, b: Any, less: int, where: str) -> Any:
    """The value for a length that is `less` below that of a; b is the value for one less. Raises UnlikeError."""
    if a is b:
        return a
    if isinstance(a, _core.Packed) and isinstance(b, _core.Packed):
        if (a.k, a.n, a.bits, a.signed) != (b.k, b.n, b.bits, b.signed) or not np.array_equal(a.data, b.data):
            raise UnlikeError(f"{where}: weights depend on the length")
        return a
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.ndim == b.ndim and a.dtype == b.dtype:
        return _array_between(a, b, less, where)
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {key: _between(value, b[key], less, f"{where}.{key}") for key, value in a.items()}
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b):
        return type(a)(_between(x, y, less, where) for x, y in zip(a, b, strict=True))
    whole = (int, np.integer)
    if isinstance(a, whole) and isinstance(b, whole) and not isinstance(a, (bool, np.bool_)):
        return int(a) - less * (int(a) - int(b))
    if type(a) is type(b) and a == b:
        return a
    raise UnlikeError(f"{where} is {a!r:.40} and {b!r:.40}")


def _array_between(a: Any, b: Any, less: int, where: str) -> Any:
    begins = tuple(slice(0, min(one, other)) for one, other in zip(a.shape, b.shape, strict=True))
    if a.shape == b.shape and np.array_equal(a, b):
        return a
    if a.dtype.kind in "iu" and a.shape == b.shape:
        return (a.astype(np.int64) - less * (a.astype(np.int64) - b.astype(np.int64))).astype(a.dtype)
    if all(one >= other for one, other in zip(a.shape, b.shape, strict=True)) and np.array_equal(a[begins], b):
        sides = [one - less * (one - other) for one, other in zip(a.shape, b.shape, strict=True)]
        return np.ascontiguousarray(a[tuple(slice(0, side) for side in sides)])
    raise UnlikeError(f"{where}: a table is not the beginning of that for a longer sequence")
