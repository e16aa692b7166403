"""`torch.compile(model, backend="ulp")`: graphs of low-bit layers that torch.compile records, through the same export as `ulp.compile`.

Each graph becomes a network at its first call, when torch.compile has done its work; other graphs, and those that cannot be exported, run
as torch runs them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ulp import onnx
from ulp._options import check_options

from .torch_source import exported

_OPTIONS = ("mode", "hint", "group", "tune", "floats", "limits")
_warned: set[str] = set()


def backend(
    graph: Any, example_inputs: Sequence[Any], *, mode: str | None = None, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """What torch.compile calls with each graph. options: mode, hint, group, tune, floats, limits, as for `ulp.compile`.

    Raises ValueError for other options, and for a mode of torch.compile, which are inductor's.
    """
    if mode is not None:
        raise ValueError(f"torch.compile(mode={mode!r}) is for inductor: backend='ulp' takes options={{...}} of {', '.join(_OPTIONS)}")
    options = dict(options or {})
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f"options has {name!r}: backend='ulp' takes {', '.join(_OPTIONS)}")
    _check(options)
    reason = _left(graph)
    if reason is not None:
        _warn(reason)
        return graph.forward  # type: ignore[no-any-return]
    return _Graph(graph, example_inputs, options)


def _check(options: dict[str, Any]) -> None:
    """The errors of ulp.load for wrong values, before anything is exported."""
    check_options({name: value for name, value in options.items() if name != "limits"})
    onnx.Limits.of(options.get("limits"))


def _left(graph: Any) -> str | None:
    """Why a graph stays torch's."""
    brevitas = False
    for node in graph.graph.nodes:
        if node.op == "call_function" and str(node.target).startswith(("ulp.", "quantized_decomposed.")):
            return None
        stack = node.meta.get("nn_module_stack") or {}
        brevitas |= any("brevitas" in str(kind) for _, kind in stack.values())
    if brevitas:
        return "torch.compile takes layers of Brevitas apart: convert them first, torch.compile(ulp.torch.convert(model), backend='ulp')"
    return "no low-bit layers: ulp.torch.convert(model) makes them, and ulp.compile quantizes whole models"


def _warn(reason: str) -> None:
    """Once per reason: a model may have many graphs."""
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"torch.compile(backend='ulp'): a graph runs as torch runs it, {reason}", stacklevel=3)


def forget_warnings() -> None:
    """Warn of each reason again."""
    _warned.clear()


class _Size(NamedTuple):
    """An argument that is a side of another."""

    argument: int
    dim: int


class _Graph:
    """A graph as a function of its arguments: inputs, parameters and buffers, and sizes."""

    def __init__(self, graph: Any, example_inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self.graph, self.options = graph, options
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        held = [isinstance(x, torch.nn.Parameter) or _is_static(node) for node, x in zip(places, example_inputs, strict=True)]
        self.static = [i for i, is_held in enumerate(held) if is_held]
        self.tensors = [i for i, x in enumerate(example_inputs) if isinstance(x, Tensor) and not held[i]]
        sizes = _sizes(places, example_inputs)
        self.sizes = sizes or {}
        self.lock = threading.Lock()
        self.network: Any = None
        self.kept: list[tuple[Tensor, int]] = []
        self.failed = sizes is None or not self.tensors

    def __call__(self, *args: Any) -> Any:
        if self.failed or (torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)):
            if not self.failed:
                _warn("it is called with gradients on: call the model under torch.no_grad() or torch.inference_mode()")
            return self.graph(*args)
        if self.network is None or any(args[i] is not t or _version(t) != v for i, (t, v) in zip(self.static, self.kept, strict=True)):
            with self.lock:
                self.build(args)
            if self.network is None:
                return self.graph(*args)
        return self.network(*[args[i] for i in self.tensors])

    def build(self, args: Sequence[Any]) -> None:
        """The network of these parameters; none where torch cannot export the graph."""
        kept = [(args[i], _version(args[i])) for i in self.static]
        try:
            source = exported(_Bound(self, args), tuple(args[i] for i in self.tensors))
            network = onnx.load(source.proto, progress=False, **self.options)
        except (ValueError, TypeError) as error:
            self.failed, self.network = True, None
            _warn(str(error))
            return
        network.restructure(source.structure)
        self.kept, self.network = kept, network


class _Bound(torch.nn.Module):
    """The graph with parameters and buffers of its own, as a function of its inputs."""

    def __init__(self, owner: _Graph, args: Sequence[Any]) -> None:
        super().__init__()
        self.training = False
        self.graph = owner.graph
        self.tensors, self.static, self.sizes = owner.tensors, owner.static, owner.sizes
        self.count = len(args)
        for i in owner.static:
            self.register_buffer(f"held_{i}", args[i].detach())

    def forward(self, *inputs: Tensor) -> Any:
        """The graph's results."""
        args: list[Any] = [None] * self.count
        for i, x in zip(self.tensors, inputs, strict=True):
            args[i] = x
        for i in self.static:
            args[i] = getattr(self, f"held_{i}")
        for i, size in self.sizes.items():
            args[i] = args[size.argument].shape[size.dim]
        return self.graph(*args)


def _is_static(node: Any) -> bool:
    """Whether torch.compile made an argument of a parameter or a buffer."""
    return "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _sizes(places: Sequence[Any], example_inputs: Sequence[Any]) -> dict[int, _Size] | None:
    """Of which tensor's side each argument is that is a size; None where one is of none."""
    found: dict[int, _Size] = {}
    shapes = [getattr(node.meta.get("example_value"), "shape", ()) for node in places]
    for i, (node, x) in enumerate(zip(places, example_inputs, strict=True)):
        if isinstance(x, Tensor):
            continue
        symbol = str(node.meta.get("example_value"))
        size = next((_Size(j, d) for j, shape in enumerate(shapes) for d, side in enumerate(shape) if str(side) == symbol), None)
        if size is None or not isinstance(x, (int, torch.SymInt)):
            return None
        found[i] = size
    return found
