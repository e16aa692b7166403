"""A finished plan with what belongs to it: its script, the names of its steps, the shapes of its input and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp import _core

from . import graph as ir
from .quantizer import Quantizer
from .script import TENSORS, Script


@dataclass(frozen=True)
class Label:
    """The layer that a step belongs to: its name, its class, and its bits of weights."""

    name: str
    kind: str
    w_bits: int = 0


class Lowered:
    """A finished plan. labels: one per step; input_shapes, output_shapes: of one image."""

    def __init__(
        self,
        script: Script,
        labels: list[Label],
        input_shapes: list[ir.Shape],
        output_shapes: list[ir.Shape],
        input_quantizer: Quantizer | None,
    ) -> None:
        self.script = script
        self.plan = script.plan
        self.labels = labels
        self.input_shapes = input_shapes
        self.output_shapes = output_shapes
        self.input_quantizer = input_quantizer

    @property
    def ports(self) -> list[ir.Shape]:
        """The shapes, for one image, of the plan's inputs and its outputs as the plan has them: of three sides."""
        steps = iter(self.plan.steps())
        found: list[ir.Shape] = []
        for name, fields in self.script.calls:
            step = next(steps) if name not in TENSORS else None
            if step is not None and (name == "output" or name.startswith("input")):
                height, width, channels = step["out_shape"]
                found.append((height, width, channels) if fields.get("nhwc") else (channels, height, width))
        return found

    @property
    def codes_out(self) -> list[int]:
        """The outputs that are codes."""
        tensors = [name for name, _ in self.script.calls if name in TENSORS]
        outputs = [fields["tensor"] for name, fields in self.script.calls if name == "output"]
        return [i for i, tensor in enumerate(outputs) if tensors[tensor] == "codes"]

    @property
    def input_dtypes(self) -> list[np.dtype[Any]]:
        """float32, or uint8 where an input is codes."""
        names = [name for name, _ in self.script.calls if name.startswith("input")]
        return [np.dtype(np.uint8 if name == "input_codes" else np.float32) for name in names]

    def shaped(self, arrays: Sequence[npt.NDArray[Any]]) -> Any:
        """Arrays (N, *input shape) as the plan takes them: one array, or a list of several."""
        made = [x.reshape(x.shape[0], *port) for x, port in zip(arrays, self.ports, strict=False)]
        return made if len(made) > 1 else made[0]

    def call(self) -> Callable[..., list[npt.NDArray[Any]] | None]:
        """The plan, called with arrays (N, *input shape), for the list of (N, *output shape), or None where they are not plain."""
        if not isinstance(self.plan, _core.Plan):  # another one with its methods
            return lambda *_: None
        return _core.PlanCall(self.plan, self.input_shapes, self.output_shapes)

    def runner(self) -> Callable[..., list[npt.NDArray[Any]]]:
        """A function from (N, *input shape), of several inputs each, to the list of (N, *output shape)."""
        call, run = self.call(), self.plan.run
        shapes = self.output_shapes  # not the script: it holds what only `save` needs
        inputs = self.ports[: len(self.input_shapes)]

        def general(*arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
            made = call(*arrays)
            if made is not None:
                return made
            images = arrays[0].shape[0]
            shaped = [x.reshape(images, *port) for x, port in zip(arrays, inputs, strict=True)]
            results = run(shaped if len(shaped) > 1 else shaped[0])
            return [result.reshape(images, *shape) for result, shape in zip(results, shapes, strict=True)]

        return general
