"""`compile` turns a network into one plan of integer steps, `CompiledNetwork` runs it, and `load` reads one that was saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ulp._options import check_options
from ulp._table import Printed, Table
from ulp._tensors import as_numpy, like
from ulp._validate import integer

from . import saved
from .graph import Graph
from .layer import as_input
from .lower import Lowered, Mode, lower
from .module import Module, locate
from .on_gpu import placed
from .profile import Profile, ProfileRow, bits_text, measured, size_text
from .quantizer import Quantizer
from .script import Arrays
from .shapes import LayerError, shape_text
from .trace import Symbol, Trace

Hint = Literal["latency", "throughput"]

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Structure:
    """How results are handed out: one alone, or several in a tuple or list, or in a dict of these keys."""

    container: type | None
    keys: tuple[Any, ...] = ()

    def __call__(self, values: list[Any]) -> Any:
        """The results in their places."""
        if self.container is None:
            return values[0]
        if self.container is dict:
            return dict(zip(self.keys, values, strict=True))
        return self.container(values)

    def document(self) -> dict[str, Any]:
        """As JSON has it. TypeError for a subclass of tuple, list or dict, and for keys that are not strings."""
        container = next((name for name, kind in _CONTAINERS.items() if kind is self.container), None)
        if container is None or not all(isinstance(key, str) for key in self.keys):
            raise TypeError(
                f"the network returns a {self.container.__name__ if self.container else None} of {list(self.keys)}: "
                f"only a single result, or a plain tuple, list or dict by strings can be saved"
            )
        return {"container": container, "keys": list(self.keys)}

    @classmethod
    def from_document(cls, document: object, results: int) -> Structure:
        """What `document` described, for so many results. ValueError where that is damaged."""
        known = saved.members(document, "the results", container=str, keys=list)
        if known["container"] not in _CONTAINERS:
            raise ValueError(f"container={known['container']!r}: expected one of {', '.join(_CONTAINERS)}")
        container, keys = _CONTAINERS[known["container"]], tuple(known["keys"])
        if container is dict:
            if len(keys) != results or not all(isinstance(key, str) for key in keys):
                raise ValueError(f"keys={list(keys)}: expected a string for each of the {results} results")
        elif keys:
            raise ValueError(f"keys={list(keys)} for results that have none")
        if container is None and results != 1:
            raise ValueError(f"{results} results in the place of one")
        return cls(container, keys)


_CONTAINERS: dict[str, type | None] = {"one": None, "tuple": tuple, "list": list, "dict": dict}
_OLD_MODES = {"requantise": "requantize"}
"""What files of earlier versions call a mode"""


class CompiledNetwork(Printed):
    """A network as a plan; made by `compile`. Calling it gives what the network gives. Any number of threads may do so at once.

    input_shape, output_shapes: of one image, (C, H, W) or (features,). mode, hint, group: as given to `compile`. input_quantizer: the
    quantizer of the input, None if there are several. device: "cpu". print() shows the steps. `save` writes it to a file, from which
    `load` makes it again in milliseconds; pickle goes the same way. `to` moves it to a GPU.
    """

    device = "cpu"
    _kind = "CompiledNetwork"

    def __init__(self, lowered: Lowered, mode: Mode, hint: Hint, pack: Structure) -> None:
        self._lowered = lowered
        self._plan = lowered.plan
        self._call = lowered.call()
        self._run = lowered.runner()
        self._pack = pack
        self._dtypes = lowered.input_dtypes
        self.input_shapes = tuple(lowered.input_shapes)
        self.input_shape = self.input_shapes[0]
        self.output_shapes = tuple(lowered.output_shapes)
        self.input_quantizer: Quantizer | None = lowered.input_quantizer
        self.mode: Mode = mode
        self.hint: Hint = hint
        self.group: int = lowered.script.group

    def __call__(self, x: Any, *others: Any) -> Any:
        """The network's result for x, float32 (N, *input_shape), or uint8 codes of that shape with codes_in; any N.

        Results are float32 (N, *output_shape), uint8 with codes_out, in the tuple, list or dict that forward returned, if it did. A torch
        tensor gives tensors; floats of 16 bits, also bfloat16, give such.
        Raises LayerError for another shape, TypeError for another dtype, ValueError for a NaN, an infinity, or a code out of range.
        """
        made = self._call(x, *others)
        if made is not None:
            return self._pack(made)
        arrays, back = self._inputs(x, *others)
        results = self._run(*arrays)
        return self._pack([back(result) for result in results])

    run = __call__

    def profile(self, x: Any, *, runs: int = 5) -> Profile:
        """How long each step takes on x: the minimum over `runs` calls (1..65536) after a first one, which allocates.

        With one thread in CPU time, with several in elapsed time; the profile says which.
        """
        runs = integer(runs, "runs", 1, 2**16)
        return measured(lambda: self.timed(x), runs)

    def timed(self, x: Any, *others: Any) -> list[ProfileRow]:
        """The steps of one run."""
        arrays, _ = self._inputs(x, *others)
        _, times = self._plan.profile(self._lowered.shaped(arrays))
        return [
            ProfileRow(
                label.name,
                label.kind,
                step["name"],
                step["method"],
                (label.w_bits if step["macs"] else 0, step["a_bits"]),
                tuple(step["out_shape"]),
                step["macs"] * len(arrays[0]),
                int(ns) * 1e-6,
                0.0,
                "floats" if step["kind"] == "linear_floats" else "integers",
            )
            for label, step, ns in zip(self._lowered.labels, self._plan.steps(), times, strict=True)
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file for `load`; what was there before is replaced as a whole.

        The file holds b bits per weight, and nothing of this CPU but the methods that compute its convolutions.
        Raises TypeError where results go into a subclass of tuple, list or dict, or under keys that are not strings.
        """
        saved.write_file(path, self._parts())

    def document(self, arrays: Arrays, prefix: str = "") -> dict[str, Any]:
        """The network as JSON has it (saved.py); its arrays are put into `arrays`, under names that begin with `prefix`."""
        return {
            "lowered": saved.lowered_document(self._lowered, arrays, prefix),
            "mode": self.mode,
            "hint": self.hint,
            "codes_in": bool(self.codes_in),
            **self._pack.document(),
        }

    @classmethod
    def from_document(cls, document: object, arrays: Arrays, *, tune: bool, max_bytes: int) -> CompiledNetwork:
        """What `document` described. ValueError where that is damaged; the other arguments as for `load`."""
        known = saved.members(document, "a compiled network", lowered=dict, mode=str, hint=str, codes_in=bool, container=str, keys=list)
        known["mode"] = _OLD_MODES.get(known["mode"], known["mode"])
        for name, names in (("mode", get_args(Mode)), ("hint", get_args(Hint))):
            if known[name] not in names:
                raise ValueError(f"{name}={known[name]!r}: expected one of {', '.join(names)}")
        lowered = saved.lowered_from(known["lowered"], arrays, tune=tune, max_bytes=max_bytes)
        pack = Structure.from_document({name: known[name] for name in ("container", "keys")}, len(lowered.output_shapes))
        if known["codes_in"] != lowered.script.has("input_codes"):
            raise ValueError(f"codes_in={known['codes_in']} for a plan that takes the other kind of input")
        return cls(lowered, known["mode"], known["hint"], pack)

    @classmethod
    def _read(cls, source: saved.Source, tune: bool, max_bytes: int) -> CompiledNetwork:
        """What `save` wrote; as `load`."""
        max_bytes = integer(max_bytes, "max_bytes", 1, 2**62)
        check_options({}, tune=tune)
        try:
            document, arrays = saved.parsed(source, cls._kind)
            return cls.from_document(document, arrays, tune=bool(tune), max_bytes=max_bytes)
        except ValueError as error:
            raise ValueError(f"{saved.name_of(source)} cannot be loaded: {error}") from None

    def _parts(self) -> saved.Parts:
        arrays: Arrays = {}
        return saved.to_parts(self._kind, self.document(arrays), arrays)

    def __reduce__(self) -> Any:
        return load, (b"".join(self._parts()),)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return int(self._plan.weight_bytes)

    @property
    def codes_in(self) -> list[int]:
        """The inputs that are uint8 codes."""
        return [i for i, dtype in enumerate(self._dtypes) if dtype != _FLOAT32]

    @property
    def codes_out(self) -> list[int]:
        """The results that are uint8 codes."""
        return self._lowered.codes_out

    @property
    def has_floats(self) -> bool:
        """Whether a layer computes in floats: normalizations and the like, products of floats, a small last layer of a loaded model."""
        kinds = {"linear_floats", "product", "rows"}
        return any(step["kind"] in kinds and not step["method"].startswith(("identity", "integer")) for step in self._plan.steps())

    @property
    def memory(self) -> int:
        """Bytes of the activations of one run; each thread that runs the network at the same time needs as many."""
        return int(self._plan.arena_bytes)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return sum(step["macs"] for step in self._plan.steps())

    def _table(self) -> Table:
        rows = []
        for label, step in zip(self._lowered.labels, self._plan.steps(), strict=True):
            reads = f"%{step['source']}" if step["source"] >= 0 else ""
            writes = " ".join(f"%{t}" for t in step["targets"])
            bits = bits_text((label.w_bits if step["macs"] else 0, step["a_bits"]))
            rows.append((label.name, label.kind, step["name"], step["method"], bits, reads, writes, size_text(step["out_shape"])))
        title = (
            f"CompiledNetwork: {', '.join(map(shape_text, self.input_shapes))} -> {', '.join(shape_text(s) for s in self.output_shapes)}, "
            f"mode={self.mode!r}, hint={self.hint!r}, {self.macs / 1e6:.1f} MMAC, {self.nbytes / 1e6:.2f} MB of weights, "
            f"{self.memory / 1e6:.2f} MB of activations"
        )
        return Table(("layer", "type", "step", "kernel", "bits", "reads", "writes", "shape"), rows, title=title)

    def __repr__(self) -> str:
        return f"<{str(self).splitlines()[0]}>"

    def to(self, device: Any) -> Any:
        """The network on a GPU, for device="cuda" or "cuda:1", a `CudaNetwork`; the network itself for "cpu".

        "auto": on a GPU if there is one and every step has a form there, otherwise on the CPU.
        Raises RuntimeError where there is no module for GPUs, no driver or no device, and ValueError, naming the step, where one has no
        form on a GPU.
        """
        return placed(self, device)

    def packed(self, results: list[Any]) -> Any:
        """Results as the network hands them out: one alone, or in the tuple, list or dict that forward returned."""
        return self._pack(results)

    def check_inputs(self, given: tuple[Any, ...]) -> None:
        """TypeError, LayerError where there are too many or too few inputs, or their shapes do not fit."""
        if len(given) != len(self.input_shapes):
            raise TypeError(f"{len(given)} inputs: the network has {len(self.input_shapes)}")
        for x, shape in zip(given, self.input_shapes, strict=True):
            check_shape(tuple(x.shape), shape)
        if any(x.shape[0] != given[0].shape[0] for x in given):
            raise LayerError(f"inputs of {', '.join(str(x.shape[0]) for x in given)} images: expected as many of each")

    def _inputs(self, *given: Any) -> tuple[list[npt.NDArray[Any]], Callable[[Any], Any]]:
        """The arrays of a call, and what turns a result into what the first of them was."""
        if len(given) != len(self.input_shapes):
            raise TypeError(f"{len(given)} inputs: the network has {len(self.input_shapes)}")
        arrays, backs = zip(*(self._input(x, dtype) for x, dtype in zip(given, self._dtypes, strict=True)), strict=True)
        self.check_inputs(arrays)
        return list(arrays), backs[0]

    def _input(self, x: Any, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Callable[[Any], Any]]:
        if dtype == _FLOAT32:
            array, back = as_input(x, "x")
        else:
            array, back = np.asarray(as_numpy(x, "x")), lambda result: like(x, result)
            if array.dtype != dtype:
                raise TypeError(f"x has dtype {array.dtype}: the network was compiled with codes_in=True, expected uint8 codes")
            array = np.ascontiguousarray(array)
        return array, back


class SizeError(LayerError):
    """An input of another size than a network was compiled for."""

    def __init__(self, expected: str, found: str) -> None:
        """expected, found: the shapes as text."""
        super().__init__(f"the network was compiled for input of shape {expected}, but got {found}: compile it again for another size")
        self.expected, self.found = expected, found

    def __reduce__(self) -> tuple[type[SizeError], tuple[str, str]]:
        """For pickle, which would call it with the message."""
        return SizeError, (self.expected, self.found)


def check_shape(found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """SizeError unless `found` is (N, *shape)."""
    if found[1:] != shape or not found:
        raise SizeError(f"[N, {shape_text(shape)[1:]}", shape_text(found))


def compile(  # noqa: A001  # torch.compile and re.compile are called so, too
    network: Module,
    example: Any,
    *,
    mode: Mode = "fp32",
    hint: Hint = "latency",
    group: int = 1,
    codes_in: bool = False,
    codes_out: bool = False,
    tune: bool = True,
    functions: str = "float",
    progress: bool = True,
) -> CompiledNetwork:
    """Turn a calibrated network into one plan: low-bit activations between the layers, everything else inside their epilogues.

    network: calibrated, or its ranges loaded; what is changed in it afterwards does not reach the result.
    example: an input, float32 (N, C, H, W), (N, C, L), (N, T, C) or (N, features), or just its shape. Its values are not looked at,
        and any N may be run. A network of several inputs: a tuple of them.
    mode: "fp32": bit for bit what the layers give one after another (but a batch normalisation is folded into its convolution, which
        rounds elsewhere); "threshold": each code by integer thresholds that say exactly what real arithmetic on the same float32 scales
        and biases would give, without its roundings. Where a step adds a shortcut, averages or makes floats, both modes compute alike.
    hint: "latency": all threads work on one image; "throughput": one image (one `group`) per thread, where a call brings several.
    group: images that go through the steps together, where a call brings as many; 1..65536.
    tune: time the methods of each convolution (direct, Winograd) here and now and keep the fastest; False: choose by rule, which takes
        a fraction of the time. The results are the same.
    codes_in: the input is uint8 codes (N, C, H, W) or (N, features), by the result's `input_quantizer`; all layers that read it must agree
        on one quantizer.
    codes_out: results are uint8 codes, by the Quantize layers in which the network must then end.
    functions: softmax, normalizations and activation functions that are no tables of codes, by "float" (float32), or by "integer":
        fixed-point numbers throughout, for cores without floats, with the error bounds of csrc/ops/integer_rows.h.
    progress: show a progress bar after a second, where tqdm is installed and the output is a terminal.

    forward is called once with a symbol in place of the input. Only layers of ulp.nn take it: no operators, no numpy.
    It may return one result, or a tuple, a list or a dict of them.
    Raises ValueError for a wrong argument, and LayerError, naming the layer, where shapes do not fit, where a layer is dynamic or not
    calibrated, and where integers cannot do what the network asks: a batch normalisation that follows no convolution, an Add whose first
    operand is a max pooling or the input, a max pooling whose floats are the result; each message says where a Quantize would help.
    A ReLU whose input has other readers, too, costs an elementwise step, or a second run of the convolution if both results are floats.
    """
    if mode not in ("fp32", "threshold"):
        raise ValueError(f"mode={mode!r}: expected 'fp32' or 'threshold'")
    check_options({}, hint=hint, group=group, codes_in=codes_in, codes_out=codes_out, tune=tune, functions=functions, progress=progress)
    graph, pack = recorded(network, example)
    throughput = hint == "throughput"
    ends = {"codes_in": bool(codes_in), "codes_out": bool(codes_out)}
    how = {"tune": bool(tune), "integer_functions": functions == "integer", "progress": bool(progress)}
    lowered = lower(graph, mode, group=int(group), throughput=throughput, **ends, **how)
    return CompiledNetwork(lowered, mode, hint, pack)


def recorded(network: Module, example: Any) -> tuple[Graph, Structure]:
    """The graph of a network for an example, or its shape, and how its results are handed out. LayerError as for `compile`."""
    several = isinstance(example, (tuple, list)) and not all(isinstance(s, int) for s in example)
    shapes = [_example_shape(each) for each in (example if several else [example])]
    trace = Trace(network, *(shape[1:] for shape in shapes))
    try:
        results = network(*(Symbol.start(trace, shape[0], i) for i, shape in enumerate(shapes)))
    except LayerError as error:
        locate(error, network)
        raise
    symbols, pack = _structure(results)
    trace.graph.outputs = [symbol.result for symbol in symbols]
    return trace.graph, pack


def _example_shape(example: Any) -> tuple[int, ...]:
    """The shape of an example, which may be given as such."""
    shape = tuple(example) if isinstance(example, (tuple, list)) and all(isinstance(s, int) for s in example) else np.shape(example)
    shape = tuple(int(side) for side in shape)
    if len(shape) not in (2, 3, 4) or min(shape[1:]) < 1:
        raise LayerError(f"example has shape {shape_text(shape)}: expected (N, C, H, W), (N, C, L), (N, T, C) or (N, features)")
    return shape


def load(source: saved.Source, *, tune: bool = False, max_bytes: int = saved.MAX_BYTES) -> CompiledNetwork:
    """A network that `CompiledNetwork.save` wrote, from its file or from the file's bytes. Nothing in it is executed.

    Its results are those of the network that was saved, on any CPU.
    tune: time the methods of each convolution here and now. False: take those of the file if it was written under the ISA in force, else
        choose by rule.
    max_bytes: the most that activations and results of one image may take; a file that asks for more is refused.
    Raises ValueError, naming what is wrong, where the file is no saved network, is damaged, is of a later version or exceeds max_bytes, and
    OSError where it cannot be read.
    """
    return CompiledNetwork._read(source, tune, max_bytes)


def _held(results: Any, one: object) -> str:
    kind = type(one).__name__
    return kind if one is results else f"a {type(results).__name__} that holds a {kind}"


def _structure(results: Any) -> tuple[list[Symbol], Structure]:
    """The symbols in what forward returned, and how arrays go in their places."""
    symbols: list[Symbol]
    if isinstance(results, (tuple, list)):
        symbols, pack = list(results), Structure(type(results))
    elif isinstance(results, dict):
        symbols, pack = list(results.values()), Structure(dict, tuple(results))
    else:
        symbols, pack = [results], Structure(None)
    for symbol in symbols:
        if not isinstance(symbol, Symbol):
            raise LayerError(f"forward returned {_held(results, symbol)}: expected a layer's result, or a tuple, list or dict of them")
    if not symbols:
        raise LayerError("forward returned nothing")
    return symbols, pack
