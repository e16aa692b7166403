"""What `ulp.load` gives: plans and numpy operators in turn, with the table that says which layer runs how, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ulp._gpu import native
from ulp._gpu.arrays import on_gpu
from ulp._table import Printed, Table
from ulp._tensors import as_numpy, as_tensor, is_tensor
from ulp._validate import integer
from ulp.nn import saved
from ulp.nn.compiled import CompiledNetwork, SizeError, Structure
from ulp.nn.on_gpu import AUTO, CudaNetwork
from ulp.nn.profile import Profile, ProfileRow, bits_text, clock_ns, measured, size_text
from ulp.nn.shapes import LayerError

from .calls import checked, direct, finished, other_size, quick, shape_text
from .document import Contents, from_file, to_parts
from .limits import Limits
from .model import Array, OnnxError, Port
from .session import fed
from .stages import FloatStage, IntegerStage, IslandStage, LayerRow, Stage, bound
from .table import no_quantizers, without_compute

_NO_QUANTIZERS = "no quantizers in this file, so it runs in floats: ulp.load(..., bits=, calibrate=) quantizes it"


class OnnxNetwork(Printed):
    """A model that runs: integer parts as plans, other nodes as numpy operators. Any number of threads may call it at once.

    inputs, outputs: the model's, as the file has them. stages: what runs, in turn. layers: one row per node of the model; print() shows
    them as a table. integer: whether all of it is one plan. quantized: where `ulp.load` quantized the model, what it made of it (a
    `ulp.quantize.Quantized`; not saved), else None. source: the quantized onnx.ModelProto that `ulp.compile` made it of, for `ulp.export`;
    not saved. structure: how several results are handed out; None: by name. device: "cpu", or where `to` has put it.
    """

    source: Any = None
    device = "cpu"

    def __init__(
        self,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        stages: Sequence[Stage],
        constants: dict[str, Array],
        layers: Sequence[LayerRow],
        opset: int,
        limits: Limits,
        structure: Structure | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.stages = tuple(stages)
        self.constants = constants
        self.layers = tuple(layers)
        self.opset = opset
        self.limits = limits
        self.quantized: Any = None
        self._runners = [_runner(stage, opset, limits) for stage in stages]
        self._steps = list(zip(self._runners, _last_uses(self.stages, {port.name for port in outputs}), strict=True))
        self._quick = quick(self.inputs)
        self._halves = any(port.dtype == np.float16 for port in outputs)
        self._one_stage = direct(self.inputs, self.outputs, self.stages) if not constants else None
        self.restructure(structure)

    def restructure(self, structure: Structure | None) -> None:
        """Hand out results in this way; None: by name if there are several."""
        names = tuple(port.name for port in self.outputs)
        self.structure = structure
        self._pack = structure or (Structure(None) if len(names) == 1 else Structure(dict, names))
        self._direct = self._one_stage if structure in (None, Structure(None)) else None

    @property
    def integer(self) -> bool:
        """Whether one plan is all that runs, without a layer in floats."""
        return (
            len(self.stages) == 1
            and isinstance(self.stages[0], IntegerStage)
            and not self.constants
            and not self.stages[0].compiled.has_floats
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, and of the constants that floats are computed with."""
        plans = sum(stage.compiled.nbytes for stage in self.stages if isinstance(stage, IntegerStage))
        islands = sum(len(stage.session.model) for stage in self.stages if isinstance(stage, IslandStage))
        return plans + islands + sum(array.nbytes for array in self.constants.values())

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The model's result: an array if it has one output, else a dict of them by name; of a torch model, what that returned.

        arrays: one per input, in the model's order; or by the inputs' names. Of the dtypes and shapes of `inputs`; any batch size where the
        file leaves it open. float64 becomes float32. Torch tensors give tensors.
        Raises TypeError for a dtype, ValueError for a shape, a NaN or an infinity.
        """
        if self._direct is not None and (result := self._direct(arrays, named)) is not None:
            return result
        tensors = self._quick(arrays, named)
        tensors_out = False
        if tensors is None:
            tensors_out = any(is_tensor(x) for x in (*arrays, *named.values()))
            if tensors_out:
                arrays, named = tuple(as_numpy(x, "an input") for x in arrays), {name: as_numpy(x, name) for name, x in named.items()}
            tensors = self._tensors(arrays, named)
        elif self.constants:
            tensors.update(self.constants)
        for runner, drops in self._steps:
            runner(tensors)
            for name in drops:
                del tensors[name]
        results = [tensors[port.name] for port in self.outputs]
        if self._halves:
            results = [finished(port, result) for port, result in zip(self.outputs, results, strict=True)]
        return self._pack([as_tensor(result) for result in results] if tensors_out else results)

    run = __call__

    def to(self, device: Any) -> OnnxNetwork:
        """The model on a GPU, for device="cuda" or "cuda:1", an `OnnxCudaNetwork`; the model itself for "cpu".

        "auto": on a GPU if there is one and all of the model has a form there, otherwise on the CPU.
        Raises RuntimeError where there is no module for GPUs, no driver or no device, and ValueError, naming it, where a step, a node or an
        island has no form on a GPU.
        """
        return _placed(self, device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file that `ulp.load` reads in milliseconds, without the package onnx and on any CPU."""
        saved.write_file(path, to_parts(self._contents()))

    def __reduce__(self) -> Any:
        return load_saved, (b"".join(to_parts(self._contents())),)

    def _contents(self) -> Contents:
        return Contents(self.inputs, self.outputs, self.stages, self.constants, self.layers, self.opset, self.structure)

    def profile(self, *arrays: Any, runs: int = 5, **named: Any) -> Profile:
        """How long each step takes, as `CompiledNetwork.profile` measures it. Float operators are steps called "float"."""
        runs = integer(runs, "runs", 1, 2**16)
        integers = {row.name for row in self.layers if row.integer}
        return measured(lambda: self._timed(self._tensors(arrays, named), integers), runs)

    def _timed(self, tensors: dict[str, Array], integers: set[str]) -> list[ProfileRow]:
        """The steps of one run. integers: layers that the table says run in integers."""
        rows: list[ProfileRow] = []
        now = clock_ns()
        for stage, runner in zip(self.stages, self._runners, strict=True):
            if isinstance(stage, IntegerStage):
                rows += stage.compiled.timed(*stage.fed([_widened(tensors[name]) for name in stage.sources]))
                runner(tensors)
                continue
            begin = now()
            runner(tensors)
            ms = (now() - begin) * 1e-6
            if isinstance(stage, IslandStage):
                made = getattr(tensors[stage.makes[0]], "shape", ())  # () where it is no tensor
                alone = stage.session.what.partition(" ")[0]  # the operator, where there is only one
                runs_in = "integers" if without_compute(alone) else "floats"
                rows.append(ProfileRow(stage.session.what, "island", "float", "onnxruntime", (0, 0), made[1:], 0, ms, 0.0, runs_in))
                continue
            node = stage.node
            shape = tensors[node.outputs[0]].shape[1:]
            runs_in = "integers" if node.name in integers else "floats"
            rows.append(ProfileRow(node.name, node.op_type, "float", "numpy", (0, 0), shape, 0, ms, 0.0, runs_in))
        return rows

    def _table(self) -> Table:
        rows = [
            (row.layer, row.type, row.runs_in, bits_text(row.bits), size_text(row.shape), str(row.nbytes or ""), row.why)
            for row in self.layers
        ]
        integers = sum(row.integer for row in self.layers)
        title = (
            f"OnnxNetwork: {', '.join(map(_port_text, self.inputs))} -> {', '.join(map(_port_text, self.outputs))}, "
            f"{integers} of {len(self.layers)} layers in integers, {self.nbytes / 1e6:.2f} MB"
        )
        return Table(
            ("layer", "type", "runs in", "bits", "shape", "nbytes", "why"),
            rows,
            title=title,
            foot=_NO_QUANTIZERS if no_quantizers(self.layers) else "",
        )

    def __repr__(self) -> str:
        return f"<{str(self).splitlines()[0]}>"

    def _tensors(self, arrays: Sequence[Any], named: dict[str, Any]) -> dict[str, Array]:
        return self._checked(self._by_name(arrays, named))

    def _by_name(self, arrays: Sequence[Any], named: dict[str, Any]) -> dict[str, Any]:
        """The inputs of a call. TypeError unless each is there once."""
        names = [port.name for port in self.inputs]
        if len(arrays) > len(names):
            raise TypeError(f"{len(arrays)} inputs: the model has {len(names)}, {', '.join(names)}")
        given = dict(zip(names, arrays, strict=False))
        for name, array in named.items():
            if name not in names or name in given:
                problem = "is given twice" if name in given else "is no input"
                raise TypeError(f"{name!r} {problem}: the model has {', '.join(names)}")
            given[name] = array
        missing = [name for name in names if name not in given]
        if missing:
            raise TypeError(f"the input {missing[0]!r} is missing: the model has {', '.join(names)}")
        return given

    def _checked(self, given: dict[str, Any]) -> dict[str, Array]:
        """The inputs as stages take them, and the constants. TypeError, ValueError."""
        tensors = dict(self.constants)
        batch: dict[str, int] = {}
        for port in self.inputs:
            tensors[port.name] = checked(port, given[port.name], batch)
        return tensors


class OnnxCudaNetwork(OnnxNetwork):
    """A loaded model on one GPU; made by `OnnxNetwork.to`. Its results are the CPU's, bit for bit.

    device: "cuda:0". Everything else as for `OnnxNetwork`; `save` writes the same file, without the device.
    """

    def __init__(self, network: OnnxNetwork, there: CudaNetwork) -> None:
        super().__init__(
            network.inputs,
            network.outputs,
            network.stages,
            network.constants,
            network.layers,
            network.opset,
            network.limits,
            network.structure,
        )
        self.quantized, self.source = network.quantized, network.source
        self._on_cpu = network
        self._there = there
        self.device = there.device

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The model's result, as `OnnxNetwork` gives it. Arrays on the device give arrays there, as `CudaNetwork` does, which says more."""
        (stage,) = self.stages
        assert isinstance(stage, IntegerStage)
        given = self._by_name(arrays, named)
        if any(on_gpu(x) for x in given.values()):
            for name, codes in stage.codes.items():
                if codes.low or codes.dtype != np.uint8:
                    raise TypeError(
                        f"{name} is {codes.dtype}: of integers, arrays on the device are uint8 from 0 on only; pass numpy arrays"
                    )
            results = dict(zip(stage.results, self._there(*(given[name] for name in stage.sources)), strict=True))
            return self._pack([results[port.name] for port in self.outputs])
        tensors_out = any(is_tensor(x) for x in given.values())
        tensors = self._checked(given)
        results = dict(zip(stage.results, stage.by(self._there, [_widened(tensors[name]) for name in stage.sources]), strict=True))
        made = [finished(port, results[port.name]) for port in self.outputs]
        return self._pack([as_tensor(result) for result in made] if tensors_out else made)

    run = __call__

    def to(self, device: Any) -> OnnxNetwork:
        """As `CudaNetwork.to`."""
        if device in (self.device, "cuda", AUTO):
            return self
        return self._on_cpu.to(device)

    def __reduce__(self) -> Any:
        return _again, (self._on_cpu, self.device)


def _placed(network: OnnxNetwork, device: Any) -> OnnxNetwork:
    """The network where `device` says, as for `CompiledNetwork.to`. OnnxError, naming it, where a part of it has no form on a GPU."""
    compiled = _only_plan(network)
    if isinstance(compiled, CompiledNetwork):
        there = compiled.to(device)
        return OnnxCudaNetwork(network, there) if isinstance(there, CudaNetwork) else network
    if device != AUTO and native.device_index(device) is not None:
        raise OnnxError(f"device={device!r}: {compiled}; on a GPU all of a model has to be one integer plan")
    return network


def _only_plan(network: OnnxNetwork) -> CompiledNetwork | str:
    """The plan that is all of the model, or what else there is."""
    for stage in network.stages:
        if isinstance(stage, FloatStage):
            return f"{stage.node} runs in floats on the CPU: {stage.reason}"
        if isinstance(stage, IslandStage):
            return f"{stage.session.what} runs in floats on the CPU"
    if len(network.stages) != 1 or network.constants:
        return f"the model runs in {len(network.stages)} parts"
    stage = network.stages[0]
    if isinstance(stage, IntegerStage) and {port.name for port in network.outputs} <= set(stage.results):
        return stage.compiled
    return "the model has results that no plan makes"


def _again(network: OnnxNetwork, device: str) -> OnnxNetwork:
    return _placed(network, device)


def _port_text(port: Port) -> str:
    return f"{port.name} {port.dtype}{'' if port.shape is None else shape_text(port.shape)}"


def _runner(stage: Stage, opset: int, limits: Limits) -> Callable[[dict[str, Any]], None]:
    """The stage as a function that puts its results beside its inputs."""
    if isinstance(stage, IntegerStage):
        sources, names = stage.sources, stage.results

        def run_plan(tensors: dict[str, Any]) -> None:
            try:
                results = stage(*[_widened(tensors[name]) for name in sources])
            except SizeError as error:
                raise other_size(sources, error) from error
            except LayerError as error:
                raise OnnxError(f"the integer part that reads {', '.join(map(repr, sources))}: {error}") from error
            for name, result in zip(names, results, strict=True):
                tensors[name] = result

        return run_plan
    if isinstance(stage, IslandStage):
        return _island_runner(stage)
    node = stage.node
    function = bound(node, opset, limits)

    def run_node(tensors: dict[str, Array]) -> None:
        arrays = [_widened(tensors[name]) if name else None for name in node.inputs]
        tensors.update((name, result) for name, result in zip(node.outputs, function(*arrays), strict=False) if name)

    return run_node


def _island_runner(stage: IslandStage) -> Callable[[dict[str, Any]], None]:
    session, makes = stage.session, stage.makes
    feeds = [(name, key, dtype) for name, (key, dtype) in zip(stage.reads, session.inputs, strict=True)]
    names = [name for name, _ in session.results]

    def run_island(tensors: dict[str, Any]) -> None:
        arrays = {}
        for name, key, dtype in feeds:
            x = tensors[name]
            arrays[key] = x if type(x) is np.ndarray and x.dtype is dtype else fed(x, dtype)
        for name, result in zip(makes, session.run(names, arrays), strict=True):
            tensors[name] = result

    return run_island


_HALF = np.dtype(np.float16)


def _widened(array: Array) -> Array:
    """float32 for float16, in which neither plans nor operators of numpy compute."""
    return array.astype(np.float32) if array.dtype == _HALF else array


def _last_uses(stages: Sequence[Stage], kept: set[str]) -> list[list[str]]:
    """Per stage, the tensors that no later stage reads."""
    drops: list[list[str]] = []
    seen = set(kept)
    for stage in reversed(stages):
        names = [*stage.reads, *stage.makes]
        drops.append([name for name in dict.fromkeys(names) if name and name not in seen])
        seen.update(names)
    return drops[::-1]


def load_saved(source: saved.Source, *, tune: bool = False, limits: Limits | None = None) -> OnnxNetwork:
    """What `OnnxNetwork.save` wrote, from a file or its bytes. Arguments as for `document.from_file`.

    Raises OnnxError, naming what is wrong, where the file is no saved network or damaged, and OSError where it cannot be read.
    """
    limits = limits or Limits()
    try:
        found = from_file(source, tune=tune, limits=limits)
        return OnnxNetwork(*found[:-1], limits, found.structure)
    except ValueError as error:
        raise OnnxError(f"{saved.name_of(source)} cannot be loaded: {error}") from None
