"""Finding the ranges of activations from sample inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ulp._options import check_options
from ulp._progress import progress_bar

from .observer import METHODS, Observer


class Calibrated(Protocol):
    """A network as calibration sees it: it runs, and its modules say which of them have a range to be found (`Module.observable`)."""

    def modules(self) -> Iterator[Any]:
        """The network and all modules below it."""

    def __call__(self, x: Any, /) -> Any:
        """Run it."""


def calibrate(network: Calibrated, batches: Any, method: str = "mse", *, percentile: float = 99.99, progress: bool = True) -> None:
    """Run sample inputs through the network and fix the quantizer of every layer that is not dynamic, in place.

    batches: an iterable of inputs (or of tuples whose first item is the input, as a data loader gives them), or one array or tensor. Each
        input is what the network is called with: float32 (N, C, H, W), for example.
    method: "mse": the range with the smallest squared error of what is quantized; "percentile": from the (100 - percentile)th to the
        percentile-th value; "minmax": from the smallest to the largest value.
    progress: show a progress bar after a second, where tqdm is installed and the output is a terminal.
    Activations stay floats while the network runs; weights are already the integers. Ranges that were known before are replaced; a layer
    that no batch reached keeps its own. Several calls do not add up: pass all batches to one.
    Raises ValueError for an unknown method, for no batches at all and for a NaN or an infinity; ranges are then as they were.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected 'minmax', 'percentile' or 'mse'")
    check_options({}, progress=progress)
    if not isinstance(percentile, (int, float, np.integer, np.floating)):
        raise TypeError(f"percentile={percentile!r}: expected a number above 50, up to 100")
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile={percentile!r}: expected a number above 50, up to 100")
    if isinstance(batches, np.ndarray) or hasattr(batches, "detach"):
        batches = [batches]
    layers = [layer for layer in network.modules() if layer.observable]
    observers = [Observer() for _ in layers]
    count = 0
    try:
        for layer, observer in zip(layers, observers, strict=True):
            layer._observer = observer
        for batch in progress_bar(batches, progress, "calibrate", "batch"):
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
