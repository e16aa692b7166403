"""A float network with what its calibration data say of it, and the quantized networks that are made of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ulp._progress import progress_bar
from ulp.nn.observer import Observer
from ulp.nn.quantizer import Quantizer
from ulp.onnx.limits import Limits
from ulp.onnx.model import Array, OnnxError

from .batches import Batch, batches_of, open_shapes
from .equalize import equalized
from .lstms import RecurrentLayer
from .moments import layer_work
from .options import Activations, Rounding, check_activations, check_method, check_outliers
from .outliers import find, of_layers, without
from .places import Place, places_of
from .prepare import Layer, prepare
from .ranges import Ranges, quantizer_of, spread
from .recurrent import ACT_BITS, RecurrentWeight, recurrent_weight
from .request import Assignment, Bits, bits_of
from .result import LayerReport, Quantized
from .running import Piece, function_of
from .settle import settle, settled_alone
from .simulate import simulated
from .weights import QuantizedWeight, Settled, quantized_weight, signal_to_noise
from .write import written

# Batches on which layers' results are compared for the report.
_COMPARED = 4
# Values of a tensor that are counted per batch, and all extremes.
_COUNTED = 2**18
# Times a quantile that a tensor's largest value may be without a warning, and the least share of values below that quantile.
_OUTLIERS, _SHARE_INSIDE = 100, 0.95
# Values whose squares sum up in float32.
_LARGEST = 1e15
# Bytes that all tensors of the batches may take together with which layers are settled one by one, and multiplications of these batches.
_BYTES, _OPERATIONS = 2**32, 10**12


class FloatNetwork:
    """A float model, prepared: `quantized` makes one that computes with integers, and another assignment of bits is cheap.

    model: a path, the bytes of a file, or an onnx.ModelProto. calibrate, activations, outliers, equalize: see
    `ulp.quantize.quantize`. Needs onnx and onnxruntime.
    layers: those with weights, in the order in which they run.
    """

    def __init__(
        self,
        model: Any,
        calibrate: Any,
        *,
        activations: Activations = "static",
        outliers: float | None = None,
        equalize: bool = True,
        progress: bool = True,
        limits: Limits | None = None,
    ) -> None:
        check_activations(activations)
        check_outliers(outliers, activations)
        self._of_rows = activations == "dynamic"
        self._prepared = prepare(model, limits)
        self.batches = batches_of(calibrate, self._prepared.inputs)
        if equalize:
            self._prepared = equalized(self._prepared, self.batches, of_rows=self._of_rows)
        self._outliers = {} if outliers is None else find(self._prepared, self.batches, float(outliers))
        self.progress = progress
        self._observers: dict[str, Observer] = {}
        self._quantizers: dict[tuple[str, int, str, float, str], Quantizer] = {}
        self._alone: dict[tuple[str, bool, bool], dict[tuple[str, int], Settled]] = {}
        self._outputs: list[list[Array]] = []
        self._warned = False
        self._layer_outputs: list[dict[str, Array]] = []
        everything: Assignment = dict.fromkeys((layer.name for layer in self.layers), Bits(8, 8))
        self._observe(place.tensor for place in places_of(self._prepared, everything))

    @property
    def layers(self) -> list[Layer]:
        """The layers with weights."""
        return self._prepared.layers

    @property
    def names(self) -> list[str]:
        """Of the layers, and of the LSTMs that can be quantized, in the order in which they run."""
        return [name for _, name in sorted((each.index, each.name) for each in self._compared())]

    def _compared(self) -> list[Layer | RecurrentLayer]:
        """What the report compares: layers with weights, and LSTMs that can be quantized."""
        return [*self.layers, *self._prepared.recurrent]

    def outputs(self) -> list[list[Array]]:
        """The float model's results for each batch of the calibration data, in the order of its outputs."""
        return self._outputs

    def quantized(
        self,
        assignment: Mapping[str, Bits | int | str | None],
        *,
        ranges: Ranges = "mse",
        percentile: float | None = None,
        rounding: Rounding = "gptq",
        bias_correction: bool = True,
        alone: bool = False,
    ) -> Quantized:
        """The network with these bits, by layer; None or "float" leaves a layer in floats. Layers that are not named stay in floats.

        The other arguments are those of `ulp.quantize.quantize`. With rounding="nearest" and bias_correction=False nothing but what is
        kept from the calibration data is needed, which takes least time. alone: each layer is rounded, and its bias corrected, by what it
        reads in the float network, not in the quantized one. That is found once per width, and then another assignment is cheap.
        Raises ValueError for a name that no layer has, and for an option that does not exist.
        """
        given = self._assignment(assignment)
        check_method(ranges, percentile, rounding, bias_correction)
        share = 99.99 if percentile is None else float(percentile)
        constants = self._prepared.constants
        recurrences = {
            each.name: (
                recurrent_weight(constants[each.w], bits.weight, minmax=ranges == "minmax"),
                recurrent_weight(constants[each.r], bits.weight, minmax=ranges == "minmax"),
            )
            for each in self._prepared.recurrent
            if (bits := given[each.name]) is not None
        }
        places = places_of(self._prepared, given, of_rows=self._of_rows)
        for place in places:
            place.outliers = self._outliers.get(place.tensor, ()) if place.of_rows else ()
        static = [place for place in places if not place.of_rows]
        self._observe(place.tensor for place in static)
        if ranges != "percentile":
            self._warn(place.tensor for place in static)
        quantizers = {(p.tensor, p.bits): self._quantizer(p, ranges, share) for p in static}
        wide = of_layers(self.layers, self._outliers)
        low = {layer.name: bits.weight for layer in self.layers if (bits := given[layer.name]) is not None}
        if rounding == "nearest" and not bias_correction:
            weights = {
                layer.name: Settled(
                    quantized_weight(
                        layer, without(constants[layer.weight], layer, wide.get(layer.name, ())), low[layer.name], minmax=ranges == "minmax"
                    ),
                    None,
                )
                for layer in self.layers
                if layer.name in low
            }
        elif alone:
            known = self.rounded_alone(list(low.values()), ranges=ranges, rounding=rounding, bias_correction=bias_correction)
            weights = {name: known[name, width] for name, width in low.items()}
        else:
            before = simulated(written(self._prepared, places, quantizers, {}, recurrences))
            weights = settle(
                self._prepared,
                before,
                self._some_batches(),
                low,
                second=rounding == "gptq",
                bias_correction=bias_correction,
                minmax=ranges == "minmax",
                progress=self.progress,
                outliers=wide,
            )
        model = written(self._prepared, places, quantizers, weights, recurrences)
        read = {(name, p.bits): (self._observers[p.tensor], quantizers[p.tensor, p.bits]) for p in static for name in (p.tensor, *p.behind)}
        low_weights = {name: settled.weight for name, settled in weights.items()}
        report = partial(self._report, model, given, read, low_weights, recurrences)
        return Quantized(model, report, open_shapes(self._prepared.inputs, self.batches))

    def _warn(self, tensors: Iterable[str]) -> None:
        """Once, of the first tensor whose range a few values widen, as one broken calibration image does."""
        # One input's share of the values, and more, lies beyond the quantile.
        share = min(max(_SHARE_INSIDE, 1 - 1.5 / sum(_rows(batch) for batch in self.batches)), 0.999)
        wide = [] if self._warned else [name for name in dict.fromkeys(tensors) if spread(self._observers[name], share) > _OUTLIERS]
        if wide:
            self._warned = True
            layer = next((layer.name for layer in self.layers if layer.x == wide[0]), wide[0])
            warnings.warn(
                f"calibrate: the largest value that layer {layer!r} reads is {spread(self._observers[wide[0]], share):.0f} times the "
                f"{100 * share:.1f} % quantile, and so in {len(wide)} tensors: is an input broken? Else ranges='percentile' with "
                f"percentile={math.floor(100 * share)} leaves such values out",
                stacklevel=4,
            )

    def rounding_work(self) -> float:
        """About how many operations rounding by second moments takes."""
        return sum(layer_work(layer) for layer in self.layers)

    def rounded_alone(
        self, widths: Sequence[int], *, ranges: Ranges = "mse", rounding: Rounding = "gptq", bias_correction: bool = True
    ) -> Mapping[tuple[str, int], Settled]:
        """Weights and biases by layer and width, each layer rounded by what it reads in the float network."""
        known = self._alone.setdefault((rounding, bias_correction, ranges == "minmax"), {})
        missing = sorted(set(widths) - {width for _, width in known})
        if missing:
            known |= settled_alone(
                self._prepared,
                self._some_batches(),
                missing,
                second=rounding == "gptq",
                bias_correction=bias_correction,
                minmax=ranges == "minmax",
                progress=self.progress,
                outliers=of_layers(self.layers, self._outliers),
            )
        return known

    def _some_batches(self) -> list[Batch]:
        """As many of the first batches as may be held in memory with what layers make of them, and take some seconds to run."""
        largest = max((sum(x.nbytes for x in tensors.values()) for tensors in self._layer_outputs), default=1)
        most = int(min(_BYTES // max(1, largest), _OPERATIONS // max(1, sum(layer.macs for layer in self.layers) * _rows(self.batches[0]))))
        return self.batches[: max(1, most)]

    def _assignment(self, given: Mapping[str, Any]) -> Assignment:
        names = self.names
        for name in given:
            if name not in names:
                raise ValueError(f"assignment[{name!r}]: no layer has this name; the model has {', '.join(names[:8])}")
        found = {name: None if given.get(name) is None else bits_of(given[name], f"assignment[{name!r}]") for name in names}
        for each in self._prepared.recurrent:  # what they read has 8 bits whatever was asked for, and the report says so
            if (bits := found[each.name]) is not None:
                found[each.name] = Bits(bits.weight, ACT_BITS)
        return found

    def _quantizer(self, place: Place, ranges: Ranges, percentile: float) -> Quantizer:
        key = (place.tensor, place.bits, ranges, percentile, place.result)
        if key not in self._quantizers:
            function = function_of(self._prepared.proto, place.tensor, place.result) if place.result else None
            self._quantizers[key] = quantizer_of(self._observers[place.tensor], place.bits, ranges, percentile, function)
        return self._quantizers[key]

    def _observe(self, tensors: Iterable[str]) -> None:
        """Count the values of tensors that were not counted before, over all batches."""
        missing = [name for name in dict.fromkeys(tensors) if name not in self._observers]
        first = not self._outputs
        if not missing and not first:
            return
        graph = self._prepared.proto.graph
        outputs = self._prepared.outputs if first else []
        kept = [layer.y for layer in self._compared()] if first else []
        piece = Piece(self._prepared.proto, graph.node, list(dict.fromkeys([*outputs, *missing, *kept])))
        found = {name: Observer() for name in missing}
        for i, batch in enumerate(progress_bar(self.batches, self.progress, "calibrate", "batch")):
            made = {**batch, **piece(batch)}
            for name, observer in found.items():
                if made[name].dtype != np.float32:
                    raise OnnxError(f"{name!r} is {made[name].dtype}: only float32 models are quantized")
                _count(observer, made[name], name)
            if first:
                self._outputs.append([made[name] for name in outputs])
            if first and i < _COMPARED:
                self._layer_outputs.append({name: made[name] for name in kept})
        self._observers |= found
        if first:
            rows = _rows(self.batches[0])
            self._prepared.layers[:] = [
                replace(layer, macs=_macs(layer, self._layer_outputs[0][layer.y].size // rows)) for layer in self.layers
            ]

    def _report(
        self,
        model: Any,
        assignment: Assignment,
        read: Mapping[tuple[str, int], tuple[Observer, Quantizer]],
        weights: Mapping[str, QuantizedWeight],
        recurrences: Mapping[str, tuple[RecurrentWeight, RecurrentWeight]],
    ) -> list[LayerReport]:
        simulation = simulated(model)
        compared = self._compared()
        piece = Piece(simulation, simulation.graph.node, [layer.y for layer in compared])
        signal, noise = dict.fromkeys(assignment, 0.0), dict.fromkeys(assignment, 0.0)
        for batch, floats in zip(self.batches, self._layer_outputs, strict=False):
            made = piece(batch)
            for layer in compared:
                signal[layer.name] += float(np.square(floats[layer.y], dtype=np.float64).sum())
                noise[layer.name] += float(np.square(floats[layer.y] - made[layer.y], dtype=np.float64).sum())
        rows = []
        wide = of_layers(self.layers, self._outliers)
        for layer in self.layers:
            bits, output = assignment[layer.name], signal_to_noise(signal[layer.name], noise[layer.name])
            if bits is None:
                rows.append(LayerReport(layer.name, layer.op_type, None, float("inf"), output, 0.0))
                continue
            columns = wide.get(layer.name, ())
            exact = without(self._prepared.constants[layer.weight].astype(np.float64), layer, columns)
            error = float(np.square(exact - weights[layer.name].values()).sum())
            codes = read.get((layer.x, bits.activation))  # none of rows, which clip nothing
            clipped = clipped_share(*codes) if codes else 0.0
            rows.append(
                LayerReport(
                    layer.name, layer.op_type, bits, signal_to_noise(float(np.square(exact).sum()), error), output, clipped, columns
                )
            )
        for each in self._prepared.recurrent:
            bits, error, exact_sum = assignment[each.name], 0.0, 0.0
            for name, made_weight in zip((each.w, each.r), recurrences.get(each.name, ()), strict=False):
                floats_of = self._prepared.constants[name].astype(np.float64)
                error += float(np.square(floats_of - made_weight.values()).sum())
                exact_sum += float(np.square(floats_of).sum())
            output = signal_to_noise(signal[each.name], noise[each.name])
            rows.append(LayerReport(each.name, "LSTM", bits, signal_to_noise(exact_sum, error), output, 0.0))
        order = {name: i for i, name in enumerate(self.names)}
        return sorted(rows, key=lambda row: order[row.name])


def _rows(batch: Batch) -> int:
    return max((len(array) for array in batch.values() if array.ndim), default=1)


def _count(observer: Observer, x: Array, name: str) -> None:
    if (largest := float(max(x.max(initial=0), -x.min(initial=0)))) > _LARGEST and np.isfinite(largest):
        raise ValueError(f"calibrate: {name!r} of the float model has values up to {largest:g}, more than {_LARGEST:g}: give real inputs")
    try:
        if x.size > _COUNTED:
            observer.add(np.array([x.min(), x.max()], x.dtype))
            x = x.reshape(-1)[:: x.size // _COUNTED | 1]  # an odd step meets all channels
        observer.add(x)
    except ValueError as error:
        raise ValueError(f"calibrate: the float model computes a NaN or an infinity in {name!r}") from error


def _macs(layer: Layer, outputs: int) -> int:
    """Multiplications for `outputs` values of the result."""
    reduced = int(np.prod(layer.shape)) // layer.shape[layer.axis]
    if layer.op_type == "ConvTranspose":
        reduced //= layer.groups
    return outputs * reduced


def clipped_share(observer: Observer, quantizer: Quantizer) -> float:
    """The share of the counted values that lie more than half a step outside of the quantizer's range."""
    values, counts = observer.points()
    low = (-quantizer.zero - 0.5) * quantizer.scale
    high = (quantizer.levels - quantizer.zero + 0.5) * quantizer.scale
    return float(counts[(values < low) | (values > high)].sum() / max(1, counts.sum()))
