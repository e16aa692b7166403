"""A finished plan with what belongs to it: its script, the names of its steps, the shapes of its input and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from . import graph as ir
from .quantizer import Quantizer
from .script import Script


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

    def runner(self) -> Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
        """A function from (N, *input shape) to the list of (N, *output shape)."""
        run: Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]]] = self.plan.run
        shapes = self.output_shapes  # not the script: it holds what only `save` needs
        flat_input = len(self.input_shape) == 1
        flat = [i for i, shape in enumerate(shapes) if len(shape) == 1]
        if not flat_input and not flat:
            return run

        def reshaping(x: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
            images = x.shape[0]
            results = run(x.reshape(images, x.shape[1], 1, 1) if flat_input else x)
            for i in flat:
                results[i] = results[i].reshape(images, *shapes[i])
            return results

        return reshaping
