"""Single layers on a GPU, as other libraries' modules use them: each is compiled as a network of its own, for every size of its input."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from .compiled import compile as compile_network

MAX_SIZES = 8
"""Networks that a layer keeps, those used last: each holds its weights on the device."""


class DeviceLayer:
    """One layer of `ulp.nn`, calibrated, on the GPU of this number. Any number of threads may call it.

    Calls raise LayerError for a layer that cannot be compiled, as one that is `dynamic`; RuntimeError where the build has no module for
    GPUs, or the machine none; MemoryError.
    """

    def __init__(self, layer: Any, index: int) -> None:
        self._layer = layer
        self._device = f"cuda:{index}"
        self._networks: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, x: Any) -> Any:
        """The result for x (N, ...), float32 on the device, as an array of x's library; on its current stream, not waited for."""
        return self._network(tuple(x.shape[1:]))(x)

    def _network(self, size: tuple[int, ...]) -> Any:
        with self._lock:
            network = self._networks.pop(size, None)
            if network is None:
                network = compile_network(self._layer, (1, *size), tune=False, progress=False).to(self._device)
            self._networks[size] = network
            if len(self._networks) > MAX_SIZES:
                self._networks.popitem(last=False)
            return network
