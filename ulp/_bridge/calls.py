"""How a torch model is called: which tensors an example holds, by which names, and which of their first sides are the batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulp.onnx import OnnxError


@dataclass(frozen=True)
class Call:
    """Positional and keyword arguments of a model, of which tensors are inputs and all else is part of the model.

    An example is a tensor or array; a tuple or list of positional arguments, the last of which may be a dict of keyword arguments; or a
    dict of keyword arguments. names: of the tensors, as forward's parameters are called.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: Any, example: Any, device: Any) -> Call:
        """Of an example. TypeError where it holds no tensor; floats become float32."""
        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        args, kwargs = tuple(example) if isinstance(example, (tuple, list)) else (example,), {}
        if args and isinstance(args[-1], Mapping):
            args, kwargs = args[:-1], dict(args[-1])
        args = tuple(_input(value, device) for value in args)
        kwargs = {name: _input(value, device) for name, value in kwargs.items()}
        parameters = _parameters(model, len(args))
        named = [*zip(parameters, args, strict=True), *kwargs.items()]
        for name, value in named:
            if isinstance(value, (tuple, list, Mapping)) and any(isinstance(v, Tensor) for v in _flat(value)):
                raise OnnxError(
                    f"the argument {name!r} of the example holds tensors in a {type(value).__name__}: expected tensors themselves"
                )
        tensors = {name: value for name, value in named if isinstance(value, Tensor)}
        if not tensors:
            raise TypeError(
                f"example is {type(example).__name__} without a tensor: expected an input of the model, a tuple of positional arguments, "
                f"or a dict of keyword arguments"
            )
        return cls(args, kwargs, tuple(tensors), tuple(tensors.values()))

    def arguments(self, tensors: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with other tensors in their places."""
        left = list(tensors)
        args = [left.pop(0) if isinstance(value, Tensor) else value for value in self.args]
        return args, {name: left.pop(0) if isinstance(value, Tensor) else value for name, value in self.kwargs.items()}

    def __str__(self) -> str:
        """Names and shapes, as errors name the example."""
        return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(self.names, self.tensors, strict=True))

    @property
    def batch(self) -> int:
        """The first side of the first input that has one."""
        return next((int(tensor.shape[0]) for tensor in self.tensors if tensor.dim()), 1)

    @property
    def batched(self) -> tuple[str, ...]:
        """The inputs whose first side is the batch."""
        return tuple(name for name, tensor in zip(self.names, self.tensors, strict=True) if tensor.dim() and tensor.shape[0] == self.batch)

    def batch_axes(self) -> tuple[dict[int, Any] | None, ...]:
        """Per tensor, what torch.export may find to be open."""
        return tuple({0: torch.export.Dim.AUTO} if name in self.batched else None for name in self.names)

    def doubled(self) -> Call | None:
        """The call with two images for one, as torch.export takes a side of one for a constant; None where the batch is larger."""
        if self.batch != 1:
            return None
        tensors = [_plain(torch.cat([t, t])) if name in self.batched else t for name, t in zip(self.names, self.tensors, strict=True)]
        args, kwargs = self.arguments(tensors)
        return replace(self, args=tuple(args), kwargs=kwargs, tensors=tuple(tensors))


def _input(value: Any, device: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        value = value.detach().to(device)
        return _plain(value.float() if value.is_floating_point() else value)
    return value


def _plain(tensor: Tensor) -> Tensor:
    """The tensor with the strides of its shape: what torch exports depends on strides, also on those of sides of one."""
    strides = torch.empty(tensor.shape, device="meta").stride()
    return tensor if tensor.layout != torch.strided or tensor.stride() == strides else tensor.new_empty(tensor.shape).copy_(tensor)


def _flat(value: Any) -> list[Any]:
    values = list(value.values()) if isinstance(value, Mapping) else list(value)
    return [leaf for one in values for leaf in (_flat(one) if isinstance(one, (tuple, list, Mapping)) else [one])]


def _parameters(model: Any, count: int) -> list[str]:
    """Names of the model's first `count` positional arguments."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    more = [f"input_{i}" for i in range(len(positional), count)]
    return [*positional, *more][:count]
