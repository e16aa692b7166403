"""What quantizing gives: the model, and a report per layer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulp._table import Printed, Table

from .pareto import Choice
from .request import Assignment, Bits

if TYPE_CHECKING:
    from ulp.onnx import OnnxNetwork


@dataclass(frozen=True)
class LayerReport:
    """What became of a layer.

    bits: None if it stays in floats. weight_snr, output_snr: 10 log10(signal / squared error) of its weights, and of its result in the
    quantized network against that in the float one on calibration data, in dB; inf where nothing differs. clipped: the share of its input's
    values that lie outside of its quantizer's range. outliers: channels that it reads that are multiplied as floats beside the integers.
    """

    name: str
    op_type: str
    bits: Bits | None
    weight_snr: float
    output_snr: float
    clipped: float
    outliers: tuple[int, ...] = ()


class Quantized(Printed):
    """A quantized model.

    model: the onnx.ModelProto, in QONNX. layers: a report per layer; print() shows them as a table. choice: of bits="auto", else None.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[LayerReport] | Callable[[], Sequence[LayerReport]],
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """layers: or a function that makes them when they are first asked for: it runs the model.

        shapes: of inputs whose sides the model leaves open, as the calibration data had them.
        """
        self.model = model
        self.shapes = dict(shapes or {})
        self.choice: Choice | None = None
        self._report = layers

    @cached_property
    def layers(self) -> tuple[LayerReport, ...]:
        """A report per layer, in the order in which they run."""
        return tuple(self._report() if callable(self._report) else self._report)

    @property
    def assignment(self) -> Assignment:
        """The bits of each layer, as `FloatNetwork.quantized` takes them."""
        return {row.name: row.bits for row in self.layers}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file: QONNX, which `ulp.load`, qonnx, FINN and Brevitas's own tools read."""
        Path(path).write_bytes(self.model.SerializeToString())

    def load(self, **options: Any) -> OnnxNetwork:
        """The network that runs; options as for `ulp.load`. Its attribute `quantized` is this object.

        Sides of inputs that the model leaves open, but for the batch, are those of the calibration data unless `shapes` or
        `max_length` says otherwise.
        """
        from ulp.onnx import load

        asked = ("bits", "calibrate", "max_ms", "max_drop", "max_bytes", "metric")
        if given := [name for name in asked if options.get(name) is not None]:
            raise TypeError(f"load({given[0]}=): this model is quantized already; other bits come from quantizing the float model anew")
        own = self.shapes if options.get("max_length") is None else {}
        shapes = {**own, **(options.pop("shapes", None) or {})}
        network = load(self.model, shapes=shapes or None, **options)
        network.quantized = self
        return network

    def _table(self) -> Table:
        rows: list[tuple[str, ...]] = [
            (
                row.name,
                row.op_type,
                "float" if row.bits is None else str(row.bits),
                _decibels(row.weight_snr),
                _decibels(row.output_snr),
                "" if row.bits is None else f"{100 * row.clipped:.2f}",
            )
            for row in self.layers
        ]
        heads: tuple[str, ...] = ("layer", "type", "bits", "weight SNR dB", "output SNR dB", "clipped %")
        if any(row.outliers for row in self.layers):
            heads = (*heads, "outliers")
            rows = [(*cells, str(len(row.outliers) or "")) for cells, row in zip(rows, self.layers, strict=True)]
        low = sum(row.bits is not None for row in self.layers)
        return Table(heads, rows, right=3, title=f"Quantized: {low} of {len(self.layers)} layers")

    def __repr__(self) -> str:
        return f"<{str(self).splitlines()[0]}>"


def _decibels(value: float) -> str:
    return "" if math.isinf(value) or math.isnan(value) else f"{value:.1f}"
