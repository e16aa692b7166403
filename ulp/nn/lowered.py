"""A finished plan with what belongs to it: its script, the names of its steps, the shapes of its input and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

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
    """A finished plan. labels: one per step; input_shape, output_shapes: of one image."""

    def __init__(
        self, script: Script, labels: list[Label], input_shape: ir.Shape, output_shapes: list[ir.Shape], input_quantizer: Quantizer | None
    ) -> None:
        self.script = script
        self.plan = script.plan
        self.labels = labels
        self.input_shape = input_shape
        self.output_shapes = output_shapes
        self.input_quantizer = input_quantizer

    @property
    def ports(self) -> list[ir.Shape]:
        """The shapes, for one image, of the plan's input and its outputs as the plan has them: of three sides."""
        steps = iter(self.plan.steps())
        found: list[ir.Shape] = []
        for name, fields in self.script.calls:
            step = next(steps) if name not in TENSORS else None
            if step is not None and (name == "output" or name.startswith("input")):
                height, width, channels = step["out_shape"]
                found.append((height, width, channels) if fields.get("nhwc") else (channels, height, width))
        return found

    def runner(self) -> Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
        """A function from (N, *input shape) to the list of (N, *output shape)."""
        run: Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]]] = self.plan.run
        shapes = self.output_shapes  # not the script: it holds what only `save` needs
        port, *ports = self.ports
        reshapes = port != tuple(self.input_shape)
        others = [i for i, shape in enumerate(shapes) if tuple(shape) != ports[i]]
        if not reshapes and not others:
            return run

        def reshaping(x: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
            images = x.shape[0]
            results = run(x.reshape(images, *port) if reshapes else x)
            for i in others:
                results[i] = results[i].reshape(images, *shapes[i])
            return results

        return reshaping
