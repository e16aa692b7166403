"""A network on a GPU: the steps of a plan, in the memory of one device."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp import _core, config

from . import native
from .arrays import Host, Library, View, dense, library_of, to_numpy
from .builder import TENSORS, Builder, Fields, Port
from .steps import add

_NOT_FINITE = "the input, a value that is quantized, or what a scale of the call makes of it is a NaN or an infinity"
_TOO_LARGE = "the input holds codes beyond what its bits allow, or the length of a sequence is not an integer within it"


class DeviceNetwork:
    """The steps of a plan on one GPU. Any number of threads may call it at once: their runs take turns on the device.

    calls: those that built the plan, (kind, fields). names: of its steps, for messages. device: the GPU's number. methods: kernels of
    convolutions, by the number of the step; by default the one that is expected to be the fastest.
    ValueError, naming the step, where one has no form on a GPU; MemoryError.
    """

    def __init__(
        self, calls: Sequence[tuple[str, Fields]], names: Sequence[str], device: int, methods: Mapping[int, str] | None = None
    ) -> None:
        builder = Builder(native.load(), device, methods)
        steps = iter(names)
        for kind, fields in calls:
            add(builder, kind, fields, "" if kind in TENSORS else next(steps))
        self._native = builder.network
        self._native.finalize()
        self.inputs: tuple[Port, ...] = tuple(builder.inputs)
        self.outputs: tuple[Port, ...] = tuple(builder.outputs)
        self.device = device
        self._lock = threading.Lock()

    @property
    def arena_bytes(self) -> int:
        """Bytes of the activations of one image."""
        return int(self._native.arena_bytes)

    def methods(self, images: int) -> list[str]:
        """What computes each step, for so many images."""
        return list(self._native.methods(images))

    def on_host(self, arrays: Sequence[npt.NDArray[Any]], shapes: Sequence[tuple[int, ...]] | None = None) -> list[npt.NDArray[Any]]:
        """The results for C-contiguous numpy arrays (N, *port), copied to the device and back. ValueError for values, as on the CPU.

        shapes: of the results of one image, of as many elements as the ports, which are the default.
        """
        shapes = shapes or [port.shape for port in self.outputs]
        library = Host(self.device)
        with self._lock:  # the status is of the last run
            results = self._run(library, [library.view(library.upload(array)) for array in arrays], shapes)
            if len(arrays[0]):
                self._check(library)
        return [to_numpy(library, result) for result in results]

    def on_device(self, arrays: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
        """The results for arrays (N, ...) of as many elements as the ports, as arrays (N, *shape) of the first one's library.

        The work goes to that library's current stream and is not waited for. Values are not looked at, unless ULP_CUDA_CHECK=1.
        """
        library = library_of(arrays[0])
        views = [_usable(array, port, self.device, i) for i, (array, port) in enumerate(zip(arrays, self.inputs, strict=True))]
        with self._lock:
            results = self._run(library, views, shapes)
            if config.cuda_check and views[0].shape[0]:
                self._check(library)
        return results

    def _run(self, library: Library, views: Sequence[View], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
        images = views[0].shape[0]
        results = [library.empty((images, *shape), port.dtype) for shape, port in zip(shapes, self.outputs, strict=True)]
        if images:
            self._native.run(
                images=images,
                inputs=[view.pointer for view in views],
                outputs=[library.view(result).pointer for result in results],
                stream=library.stream(),
            )
        return results

    def _check(self, library: Library) -> None:
        not_finite, too_large = self._native.status(library.stream())
        if not_finite:
            raise _core.NotFinite(_NOT_FINITE)
        if too_large:
            raise _core.CodeOutOfRange(_TOO_LARGE)


def _usable(array: Any, port: Port, device: int, number: int) -> View:
    """Where an input lies, C-contiguous. TypeError, ValueError where it does not fit."""
    what = "x" if number == 0 else f"input {number}"
    library = library_of(array)
    view = library.view(array)
    if view.dtype != port.dtype:
        raise TypeError(f"{what} has dtype {view.dtype}: on a GPU this network takes {port.dtype}, convert it there")
    if view.device != device:
        raise ValueError(f"{what} is on cuda:{view.device}, and the network on cuda:{device}: move one of them")
    if not view.shape or math.prod(view.shape[1:]) != math.prod(port.shape):
        raise ValueError(f"{what} has shape {view.shape}: expected images of {port.shape}")
    view = library.view(dense(library, array))
    if view.pointer % np.dtype(view.dtype).itemsize:
        raise ValueError(f"{what} lies at {view.pointer}, not a multiple of {np.dtype(view.dtype).itemsize}")
    return view
