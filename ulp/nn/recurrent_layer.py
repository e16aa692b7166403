"""What `LSTM` and `GRU` share: weights by torch's names, layers and directions as a graph, calibration in floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ulp._options import check_options
from ulp._validate import bit_width, describe_interval, integer, interval

from .graph import Concat, Node, Recurrent, Shape, State, View, Weights
from .layer import Layer, QuantizedInput, as_input
from .lower import lower
from .quantizer import FloatArray, WeightOptions, as_float32, quantize_weight, to_integers
from .shapes import LayerError, shape_text
from .trace import Symbol, Trace
from .weights import uniform

R = TypeVar("R", bound="RecurrentLayer")


class Range(QuantizedInput):
    """The quantizer of what a recurrent layer multiplies: its input, or its own last result."""

    def extra_repr(self) -> str:
        """The bits."""
        return self._act_repr()


class States(Symbol):
    """The last states of a recurrent layer while a network is traced, (N, layers * directions, H). An integer index gives one, (N, H)."""

    def __init__(self, trace: Trace, node: Node, batch: int, parts: list[Node]) -> None:
        super().__init__(trace, node, batch)
        self.parts = parts

    @property
    def result(self) -> Node:
        """The node that gives it as an output of the network."""
        return self.trace.graph.add(View(False), [self.node], self.shape[1:], self.node.name, self.node.kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's, with the example's batch."""
        return self.batch, len(self.parts), *self.parts[0].shape

    def __getitem__(self, index: object) -> Any:
        if not isinstance(index, int):
            self._unknown("indexing by other than an integer")
        return Symbol(self.trace, self.parts[index], self.batch)


class RecurrentLayer(Layer):
    """Layers and directions of one kind of gates; see `LSTM`."""

    _kind: str
    _gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        options: WeightOptions,
        act_bits: int,
        dynamic: bool,
    ) -> None:
        super().__init__()
        check_options({}, dynamic=dynamic, batch_first=batch_first, bidirectional=bidirectional)
        self.input_size = integer(input_size, "input_size", 1, 2**20)
        self.hidden_size = integer(hidden_size, "hidden_size", 1, 2**20)
        self.num_layers = integer(num_layers, "num_layers", 1, 2**10)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout!r}: expected a number from 0 to 1 (nothing is dropped outside training)")
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dropout = float(dropout)
        self.bidirectional = bool(bidirectional)
        self.bits = options.bits
        self.act_bits = bit_width(act_bits, "act_bits")
        self.dynamic = bool(dynamic)
        self.weight_options = options
        self._weights: dict[str, tuple[npt.NDArray[np.int8], FloatArray]] = {}
        self._biases: dict[str, FloatArray] = {}
        bound = 1 / np.sqrt(self.hidden_size)
        for name, (shape, _) in self._floats().items():
            self._take(name, uniform(bound, shape))
        if not self.dynamic:
            for layer in range(self.num_layers):
                setattr(self, f"input_l{layer}", Range(self.act_bits, None, False, False))
                for suffix in self._suffixes:
                    setattr(self, f"hidden_l{layer}{suffix}", Range(self.act_bits, None, False, False))

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    @property
    def directions(self) -> int:
        """2 where it is bidirectional."""
        return len(self._suffixes)

    @property
    def weights(self) -> dict[str, tuple[npt.NDArray[np.int8], FloatArray]]:
        """By torch's names: the integers, and their scales (gates * hidden_size,), read-only."""
        return dict(self._weights)

    @property
    def biases(self) -> dict[str, FloatArray]:
        """By torch's names, read-only; empty where there are none."""
        return dict(self._biases)

    def _floats(self) -> dict[str, tuple[Shape, bool]]:
        """Names and shapes of torch's parameters."""
        made: dict[str, tuple[Shape, bool]] = {}
        rows = self._gates * self.hidden_size
        for layer in range(self.num_layers):
            columns = self.input_size if layer == 0 else self.directions * self.hidden_size
            for suffix in self._suffixes:
                made[f"weight_ih_l{layer}{suffix}"] = (rows, columns), True
                made[f"weight_hh_l{layer}{suffix}"] = (rows, self.hidden_size), True
                if self.bias:
                    made[f"bias_ih_l{layer}{suffix}"] = made[f"bias_hh_l{layer}{suffix}"] = (rows,), True
        return made

    def _take(self, name: str, value: FloatArray, scale: FloatArray | None = None) -> None:
        if name.startswith("bias"):
            kept = {**self._biases, name: np.array(value)}
            kept[name].flags.writeable = False
            self._biases = kept
            return
        if scale is None:
            made = quantize_weight(value, self.weight_options)
        else:
            made = to_integers(value, scale, self.weight_options), np.array(scale)
        for array in made:
            array.flags.writeable = False
        self._weights = {**self._weights, name: made}

    @classmethod
    def from_float(cls: type[R], layer: Any, *, bits: int | str, **options: Any) -> R:
        """A layer like `layer` (torch's module of the same name, or what has its attributes) with its weights quantized.

        Further options as for the class. ValueError for projections (proj_size).
        """
        made = cls._like(layer, bits=bits, **options)
        made.load_state_dict({name: getattr(layer, name) for name in made._floats()})
        return made

    @classmethod
    def _like(cls: type[R], layer: Any, **options: Any) -> R:
        if getattr(layer, "proj_size", 0):
            raise ValueError(f"proj_size={layer.proj_size}: projections are not supported")
        if not hasattr(layer, "hidden_size"):
            raise TypeError(f"layer is a {type(layer).__name__}: expected a torch.nn.{cls.__name__}, or what has its attributes")
        make: Any = cls
        made: R = make(
            layer.input_size,
            layer.hidden_size,
            layer.num_layers,
            layer.bias,
            layer.batch_first,
            layer.dropout,
            layer.bidirectional,
            **options,
        )
        return made

    @classmethod
    def from_quantized(
        cls: type[R], layer: Any, weights: Mapping[str, tuple[Any, Any]], biases: Mapping[str, Any], *, bits: int | str, **options: Any
    ) -> R:
        """A layer of given integers, as torch.ao's dynamic LSTM holds them.

        layer: what has the attributes of torch's module. weights: by torch's names, integers of `bits` bits (at one bit -1 and +1) and
        their scale, a number or (gates * hidden_size,). biases: by torch's names, floats. Further options as for the class.
        """
        made = cls._like(layer, bits=bits, **options)
        low, high = interval(made.bits, signed=True)
        for name, (shape, _) in made._floats().items():
            if name.startswith("bias"):
                value = as_float32(biases[name], name)
            else:
                value = np.asarray(weights[name][0])
                if value.dtype.kind not in "iu":
                    raise TypeError(f"{name} has dtype {value.dtype}: expected integers")
                if value.size and (value.min() < low or value.max() > high or (made.bits == 1 and not value.all())):
                    raise ValueError(f"{name} holds values outside {describe_interval(made.bits, signed=True)}")
            if value.shape != shape:
                raise LayerError(f"{name} has shape {shape_text(value.shape)}, expected {shape_text(shape)}")
            if name.startswith("bias"):
                made._take(name, value)
            else:
                scale = np.array(np.broadcast_to(as_float32(weights[name][1], f"scale of {name}"), shape[:1]))
                integers = value.astype(np.int8)
                for array in (integers, scale):
                    array.flags.writeable = False
                made._weights = {**made._weights, name: (integers, scale)}
        return made

    # What a state dict holds.

    def _parameters(self) -> dict[str, FloatArray]:
        made = {}
        for name in self._floats():
            if name.startswith("bias"):
                made[name] = self._biases[name].copy()
            else:
                integers, scale = self._weights[name]
                made[name] = integers * scale[:, None]
        return made

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return {**self._parameters(), **{f"{name}_scale": scale.copy() for name, (_, scale) in self._weights.items()}}

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        floats = self._floats()
        return {**floats, **{f"{name}_scale": (shape[:1], False) for name, (shape, _) in floats.items() if name.startswith("weight")}}

    def _assign(self, values: dict[str, FloatArray]) -> None:
        for name in self._floats():
            if name in values:
                self._take(name, values[name], values.get(f"{name}_scale"))

    # Running.

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> Any:
        """(result, last states) for x, as torch's module of the same name; see the class."""
        try:
            if isinstance(x, Symbol):
                if not self.batch_first:
                    raise LayerError(f"{type(self).__name__} with batch_first=False cannot be compiled: make it with batch_first=True")
                return self._record_layers(x, state, lengths)
            return self._run(x, state, lengths)
        except LayerError as error:
            error.layer = error.layer or self
            raise

    def _run(self, x: Any, state: Any, lengths: Any) -> Any:
        array, back = as_input(x)
        if array.ndim not in (2, 3) or array.shape[-1] != self.input_size:
            sides = "(N, T, {0})" if self.batch_first else "(T, N, {0})"
            expected = f"{sides.format(self.input_size)} or (T, {self.input_size})"
            raise LayerError(f"input has shape {shape_text(array.shape)}: {type(self).__name__} takes {expected}")
        batched = array.ndim == 3
        images = array[None] if not batched else array if self.batch_first else array.transpose(1, 0, 2)
        count, time = images.shape[:2]
        if time == 0:
            raise LayerError(f"input has shape {shape_text(array.shape)}: a sequence has at least one step")
        given = [np.ascontiguousarray(images)]
        for name, part in zip(("hx", "cx"), self._states_of(state), strict=False):
            given.append(self._first_state(part, name, count, batched))
        if lengths is not None:
            given.append(_checked_lengths(lengths, count, time)[:, None])
        if any(isinstance(child, Range) and child._observer is not None for child in self._modules.values()):
            results = self._float(given, state is not None, lengths is not None)
        else:
            key = (time, int(state is not None), int(lengths is not None))
            results = self._planned(key, lambda: self._plan(*key))(*given)
        y, *states = results
        if not batched:
            y, states = y[0], [s[0] for s in states]
        else:
            y = y if self.batch_first else y.transpose(1, 0, 2)
            states = [s.transpose(1, 0, 2) for s in states]
        return back(np.ascontiguousarray(y)), self._packed([back(np.ascontiguousarray(s)) for s in states])

    def _plan(self, time: int, has_state: int, has_lengths: int) -> Any:
        states = self.num_layers * self.directions, self.hidden_size
        count = self._state_count if has_state else 0
        trace = Trace(self, (time, self.input_size), *[states] * count, *[(1,)] * has_lengths)
        x, *others = (Symbol.start(trace, 1, i) for i in range(len(trace.graph.inputs)))
        y, last = self._record_layers(x, self._packed(others[:count]) if has_state else None, others[count] if has_lengths else None)
        trace.graph.outputs = [symbol.result for symbol in (y, *self._states_of(last))]
        return lower(trace.graph).runner()

    def _first_state(self, value: Any, name: str, count: int, batched: bool) -> FloatArray:
        array = as_float32(value, name)
        shape = (self.num_layers * self.directions, *([count] if batched else []), self.hidden_size)
        if array.shape != shape:
            raise LayerError(f"Expected {name} size {shape_text(shape)}, got {shape_text(array.shape)}")
        return np.ascontiguousarray(array.transpose(1, 0, 2) if batched else array[None])

    # How states are handed in and out.

    _state_count: int

    def _states_of(self, state: Any) -> list[Any]:
        raise NotImplementedError

    def _packed(self, states: list[Any]) -> Any:
        raise NotImplementedError

    # As a graph.

    def _record_layers(self, x: Symbol, state: Any, lengths: Any) -> Any:
        """The layers of (N, T, C), whatever batch_first says."""
        if len(x.shape) != 3 or x.shape[2] != self.input_size:
            raise LayerError(f"input has shape {shape_text(x.shape)}: a compiled {type(self).__name__} takes (N, T, {self.input_size})")
        y = x.as_rows(True)
        firsts = [self._first_symbol(part) for part in self._states_of(state)]
        if lengths is not None and (not isinstance(lengths, Symbol) or lengths.shape[1:] != (1,)):
            raise LayerError("lengths must be an input of the network, of shape (N, 1)")
        inputs = [*firsts, *([] if lengths is None else [lengths])]
        lasts: list[list[Node]] = [[] for _ in range(self._state_count)]
        graph, name = x.trace.graph, x.trace.name(self)
        for layer in range(self.num_layers):
            made = []
            for suffix in self._suffixes:
                at = len(lasts[0]) * self.hidden_size
                places = [(i + 1, at) for i in range(len(firsts))] + [None, None]
                op = self._op(f"l{layer}{suffix}", layer, suffix, places, None if lengths is None else (len(inputs), 0))
                shape = self.hidden_size, 1, x.shape[1]
                sources = [y.node, *(symbol.node for symbol in inputs)]
                made.append(graph.add(op, sources, shape, f"{name}.l{layer}{suffix}", type(self).__name__))
                for which, nodes in zip(("hidden", "cell"), lasts, strict=False):
                    nodes.append(graph.add(State(which), [made[-1]], (self.hidden_size,), f"{name}.{which}", "State"))
            node = made[0] if len(made) == 1 else graph.add(Concat(), made, (2 * self.hidden_size, 1, x.shape[1]), name, "Concat")
            y = Symbol(x.trace, node, x.batch, True)
        states = []
        for nodes in lasts:
            whole = nodes[0] if len(nodes) == 1 else graph.add(Concat(), nodes, (len(nodes) * self.hidden_size,), name, "Concat")
            states.append(States(x.trace, whole, x.batch, nodes))
        return y, self._packed(states)

    def _first_symbol(self, part: Any) -> Symbol:
        expected = self.num_layers * self.directions, self.hidden_size
        if not isinstance(part, Symbol) or part.shape[1:] != expected:
            found = shape_text(part.shape) if isinstance(part, Symbol) else type(part).__name__
            raise LayerError(f"Expected states of shape (N, {expected[0]}, {expected[1]}) in a compiled network, got {found}")
        return part if isinstance(part, States) else part.as_rows(True)

    def _op(self, key: str, layer: int, suffix: str, places: list[Any], lengths: tuple[int, int] | None) -> Recurrent:
        bias, hidden_bias = self._summed_biases(key)
        (of_x, x_scale), (of_h, h_scale) = self._weights[f"weight_ih_{key}"], self._weights[f"weight_hh_{key}"]
        x_quantizer = h_quantizer = None
        if not self.dynamic:
            x_quantizer, h_quantizer = (self._range(name).input_quantizer() for name in (f"input_l{layer}", f"hidden_l{layer}{suffix}"))
        return Recurrent(
            kind=self._kind,
            input=Weights(of_x, self.bits, x_scale.astype(np.float64), bias.astype(np.float64)),
            weights=Weights(of_h, self.bits, h_scale.astype(np.float64), np.zeros(len(of_h))),
            quantizer=x_quantizer,
            state_quantizer=h_quantizer,
            act_bits=self.act_bits,
            state_bits=self.act_bits,
            reverse=bool(suffix),
            hidden_bias=hidden_bias,
            hidden=places[0],
            cell=places[1],
            lengths=lengths,
        )

    def _range(self, name: str) -> Range:
        found = self._modules[name]
        assert isinstance(found, Range)
        return found

    def _summed_biases(self, key: str) -> tuple[FloatArray, FloatArray | None]:
        """What is added to the sums, and to a GRU's third gate inside the product with the reset gate."""
        units = self.hidden_size
        if not self.bias:
            return np.zeros(self._gates * units, np.float32), None
        of_x, of_h = self._biases[f"bias_ih_{key}"], self._biases[f"bias_hh_{key}"]
        if self._kind == "lstm":
            return of_x + of_h, None
        return of_x + np.concatenate([of_h[: 2 * units], np.zeros(units, np.float32)]), of_h[2 * units :]

    # In floats: what calibration runs.

    def _float(self, given: list[FloatArray], has_state: bool, has_lengths: bool) -> list[FloatArray]:
        """As the plan, without quantizing what is multiplied: y (N, T, ...) and states (N, S, H)."""
        x, *others = given
        lengths = others.pop()[:, 0].astype(int) if has_lengths else np.full(len(x), x.shape[1])
        lasts: list[list[FloatArray]] = [[] for _ in range(self._state_count)]
        for layer in range(self.num_layers):
            self._watch(f"input_l{layer}", x)
            made = []
            for suffix in self._suffixes:
                at = len(lasts[0])
                zeros = np.zeros((len(x), self.hidden_size), np.float32)
                states = [others[i][:, at] if has_state else zeros for i in range(self._state_count)]
                y, ends = self._float_direction(f"l{layer}{suffix}", x, states, lengths, bool(suffix))
                made.append(y)
                for kept, end in zip(lasts, ends, strict=True):
                    kept.append(end)
            x = np.concatenate(made, axis=2)
        return [x, *(np.stack(kept, axis=1) for kept in lasts)]

    def _watch(self, name: str, value: FloatArray) -> None:
        found = self._modules.get(name)
        if isinstance(found, Range) and found._observer is not None:
            found._observer.add(value)

    def _float_direction(
        self, key: str, x: FloatArray, states: list[FloatArray], lengths: npt.NDArray[Any], reverse: bool
    ) -> tuple[FloatArray, list[FloatArray]]:
        bias, hidden_bias = self._summed_biases(key)
        of_x, of_h = (integers * scale[:, None] for integers, scale in (self._weights[f"weight_{part}_{key}"] for part in ("ih", "hh")))
        sums = x @ of_x.T + bias
        y = np.zeros((*x.shape[:2], self.hidden_size), np.float32)
        for step in range(x.shape[1]):
            active = np.flatnonzero(step < lengths)
            at = lengths[active] - 1 - step if reverse else np.full(len(active), step)
            now = [s[active] for s in states]
            self._watch(f"hidden_{key}", now[0])
            after = self._float_step(sums[active, at], now[0] @ of_h.T, now, hidden_bias)
            states = [s.copy() for s in states]
            for kept, value in zip(states, after, strict=True):
                kept[active] = value
            y[active, at] = after[0]
        return y, states

    def _float_step(self, x: FloatArray, h: FloatArray, states: list[FloatArray], hidden_bias: FloatArray | None) -> list[FloatArray]:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """As torch's, and the bits."""
        text = f"{self.input_size}, {self.hidden_size}"
        for name, usual in (("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0.0), ("bidirectional", False)):
            text += "" if getattr(self, name) == usual else f", {name}={getattr(self, name)}"
        return f"{text}, bits={self.bits}, act_bits={self.act_bits}{'' if self.dynamic else ', dynamic=False'}"


def _checked_lengths(lengths: Any, count: int, time: int) -> FloatArray:
    array = np.asarray(lengths)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise LayerError(f"lengths must be {count} integers, got {array.dtype} of shape {shape_text(array.shape)}")
    if array.size and (array.min() < 0 or array.max() > time):
        raise LayerError(f"lengths must be in 0..{time}, got {array.min()}..{array.max()}")
    return array.astype(np.float32)
