"""Finding the ranges of activations from sample inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .layer import QuantizedInput
from .module import Module
from .observer import METHODS, Observer


def calibrate(network: Module, batches: Any, method: str = "mse", *, percentile: float = 99.99, progress: bool = True) -> None:
    """Run sample inputs through the network and fix the quantizer of every layer that is not dynamic, in place.

    batches: an iterable of inputs (or of tuples whose first item is the input, as a data loader gives them), or one array or tensor. Each
        input is what the network is called with: float32 (N, C, H, W), say.
    method: "mse": the range with the least squared error of what is quantized; "percentile": from the (100 - percentile)th to the
        percentile-th value; "minmax": from the least to the largest value.
    progress: show a progress bar after a second, where tqdm is installed and the output is a terminal.
    Activations stay floats while the network runs, weights are already the integers. Ranges that were known before are replaced; a layer
    that no batch reached keeps what it had. Several calls do not add up: pass all batches to one.
    Raises ValueError for an unknown method, for no batches at all and for a NaN or an infinity; ranges are then as they were.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected 'minmax', 'percentile' or 'mse'")
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile={percentile!r}: expected a number above 50, up to 100")
    if isinstance(batches, np.ndarray) or hasattr(batches, "detach"):
        batches = [batches]
    layers = [layer for layer in network.modules() if isinstance(layer, QuantizedInput) and not layer.dynamic]
    observers = [Observer() for _ in layers]
    count = 0
    try:
        for layer, observer in zip(layers, observers, strict=True):
            layer._observer = observer
        for batch in _bar(batches, progress):
            network(batch[0] if isinstance(batch, (tuple, list)) else batch)
            count += 1
    finally:
        for layer in layers:
            layer._observer = None
    if count == 0:
        raise ValueError("batches is empty: calibration needs at least one input")
    for layer, observer in zip(layers, observers, strict=True):
        if observer.seen:
            layer.quantizer = observer.quantizer(layer.act_bits, layer.act_signed, layer.act_asymmetric, method, percentile)


def _bar(batches: Iterable[Any], progress: bool) -> Iterable[Any]:
    if not progress:
        return batches
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    bar: Iterable[Any] = tqdm(batches, desc="calibrate", unit="batch", leave=False, disable=None, delay=1)
    return bar
