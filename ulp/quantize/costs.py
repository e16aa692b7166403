"""What each layer of a network costs in milliseconds at each pair of widths, for `bits="auto"`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ulp._progress import progress_bar

from . import latency
from .network import FloatNetwork
from .request import Assignment, Bits
from .result import Quantized
from .trial import Judge, timed


def measured(
    network: FloatNetwork, judge: Judge, pairs: Sequence[Bits], quantized: Callable[[Assignment], Quantized], *, progress: bool
) -> tuple[latency.Latencies, float]:
    """Milliseconds of every layer at every pair on this CPU, and those of a call besides: steps between layers, and the call itself.

    quantized: the network with these bits; how its weights are rounded is nothing to their time.
    """
    names = [layer.name for layer in network.layers]
    rests: list[float] = []

    def times(missing: Sequence[Bits]) -> Mapping[Bits, Mapping[str, float]]:
        networks = {}
        for pair in progress_bar(missing, progress, "build", "pair"):
            networks[pair] = quantized(dict.fromkeys(names, pair)).load(progress=False)
        found = latency.in_turns(networks, judge.example, names)
        for pair, ms in zip(networks, timed(list(networks.values()), judge.example), strict=True):
            rest = ms - sum(found[pair].values())
            # Layers that onnxruntime runs have no steps of their own: what the call takes beyond others' rest is theirs, by their work.
            lost = {layer.name: layer.macs for layer in network.layers if not found[pair][layer.name] and layer.macs}
            if not lost:
                rests.append(rest)
            elif rests:
                beyond = max(0.0, rest - float(np.median(rests)))
                found[pair] |= {name: beyond * macs / sum(lost.values()) for name, macs in lost.items()}
        return found

    # The widest last: those are the ones that onnxruntime may run.
    found = latency.measured(judge.signatures(), sorted(pairs), times)
    if not rests:
        times([min(pairs)])
    return found, float(np.median(rests)) if rests else 0.0


def modelled(network: FloatNetwork, pairs: Sequence[Bits], target: str) -> latency.Latencies:
    """Milliseconds by the costs of an instruction set's kernels."""
    products = {}
    for layer in network.layers:
        depth = math.prod(layer.shape) // layer.shape[layer.axis]
        outputs = layer.shape[layer.axis] // (layer.groups if layer.op_type == "Conv" else 1)
        if layer.groups == 1 or outputs > 1:
            products[layer.name] = (max(1, layer.macs // math.prod(layer.shape)), outputs, depth, layer.groups)
    found = latency.modelled(products, pairs, target)
    # Depthwise convolutions take the same time at all widths.
    return {(layer.name, pair): found.get((layer.name, pair), 0.0) for layer in network.layers for pair in pairs}
