"""Arrays of other libraries in the memory of a GPU. No library is imported: an array can only come from one that the caller has loaded.

torch and cupy are known by name. Any other array is recognised by `__cuda_array_interface__` or `__dlpack__`; its array API namespace makes
the results. numpy arrays that are multiplied on a GPU are copied there and back by `Host`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from . import native

_CUDA, _CUDA_MANAGED = 2, 13  # device types of DLPack
_ON_HOST = frozenset({np.ndarray, list, tuple, int, float, type(None)})


class View(NamedTuple):
    """Where an array lies. Strides count elements; dtype is numpy's name for it, where numpy has one."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int
    array: Any
    capsule: object = None
    """DLPack's, which owns the memory with the array."""


class Library(Protocol):
    """What a call needs from the library that made its `a`. All arrays are on one device."""

    def view(self, array: Any) -> View: ...
    def device(self, array: Any) -> int: ...
    def stream(self) -> int:
        """The caller's current one."""

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """A new array, C-contiguous. MemoryError."""

    def workspace(self, size: int) -> tuple[int, object]:
        """Address and owner of bytes, aligned to 256, for work on `stream()`. MemoryError."""

    def contiguous(self, array: Any) -> Any:
        """A C-contiguous copy of an array that is not."""

    def upload(self, array: npt.NDArray[Any]) -> Any: ...
    def broadcast(self, array: Any, n: int) -> Any:
        """A copy of an array of one element, (n,)."""

    def assign(self, target: Any, source: Any) -> None:
        """target[...] = source, of the same shape and dtype."""


def on_gpu(x: object) -> bool:
    """Whether x is an array in the memory of a CUDA device."""
    if type(x) in _ON_HOST:
        return False
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    if tensor is not None and isinstance(x, tensor):
        return bool(getattr(x, "is_cuda", False))
    ndarray = getattr(sys.modules.get("cupy"), "ndarray", None)
    if ndarray is not None and isinstance(x, ndarray):
        return True
    return hasattr(x, "__cuda_array_interface__") or _dlpack_device(x) is not None


def library_of(x: Any) -> Library:
    """The library of an array for which `on_gpu` holds."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(x, torch.Tensor):
        return _Torch(torch, x.device)
    if cupy is not None and isinstance(x, cupy.ndarray):
        return _Cupy(cupy, x.device.id)
    return _Other(x)


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements in C order follow one another without gaps."""
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length == 0:
            return True
        if length > 1 and stride != step:
            return False
        step *= length
    return True


def dense(library: Library, array: Any) -> Any:
    """The array itself if it is C-contiguous, else a copy that is."""
    view = library.view(array)
    return array if is_contiguous(view.shape, view.strides) else library.contiguous(array)


def to_numpy(library: Library, array: Any) -> npt.NDArray[Any]:
    """A copy in host memory. Waits for the stream."""
    view = library.view(dense(library, array))
    copied: npt.NDArray[Any] = native.load().to_numpy(view.pointer, view.shape, np.dtype(view.dtype), view.device, library.stream())
    return copied


def _dlpack_device(x: Any) -> int | None:
    """The number of the CUDA device that x says it is on by DLPack."""
    ask = getattr(x, "__dlpack_device__", None)
    if ask is None:
        return None
    kind, index = ask()
    return int(index) if int(kind) in (_CUDA, _CUDA_MANAGED) else None


class _Torch:
    def __init__(self, torch: Any, device: Any) -> None:
        self._torch = torch
        self._device = device

    def view(self, array: Any) -> View:
        if array.layout != self._torch.strided:
            raise TypeError(f"a tensor of layout {array.layout}: expected a dense one, tensor.to_dense() makes it")
        dtype = str(array.dtype).rpartition(".")[2]
        return View(array.data_ptr(), tuple(array.shape), tuple(array.stride()), dtype, array.device.index, array)

    def device(self, array: Any) -> int:
        return int(array.device.index)

    def stream(self) -> int:
        return int(self._torch.cuda.current_stream(self._device).cuda_stream)

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        return self._allocate(lambda: self._torch.empty(tuple(shape), dtype=getattr(self._torch, dtype), device=self._device))

    def workspace(self, size: int) -> tuple[int, object]:
        owner = self.empty((size,), "uint8")
        return owner.data_ptr(), owner

    def contiguous(self, array: Any) -> Any:
        return self._allocate(array.contiguous)

    def upload(self, array: npt.NDArray[Any]) -> Any:
        return self._allocate(lambda: self._torch.from_numpy(np.array(array)).to(self._device))

    def broadcast(self, array: Any, n: int) -> Any:
        return self._allocate(array.reshape(1).expand(n).contiguous)

    def assign(self, target: Any, source: Any) -> None:
        target.copy_(source)

    def _allocate(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except self._torch.cuda.OutOfMemoryError as error:
            raise MemoryError(str(error)) from None


class _Cupy:
    def __init__(self, cupy: Any, device: int) -> None:
        self._cupy = cupy
        self._device = device

    def view(self, array: Any) -> View:
        size = array.dtype.itemsize
        return View(array.data.ptr, array.shape, tuple(s // size for s in array.strides), array.dtype.name, array.device.id, array)

    def device(self, array: Any) -> int:
        return int(array.device.id)

    def stream(self) -> int:
        with self._cupy.cuda.Device(self._device):
            return int(self._cupy.cuda.get_current_stream().ptr)

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        with self._cupy.cuda.Device(self._device):
            return self._cupy.empty(tuple(shape), dtype=dtype)

    def workspace(self, size: int) -> tuple[int, object]:
        owner = self.empty((size,), "uint8")
        return owner.data.ptr, owner

    def contiguous(self, array: Any) -> Any:
        with self._cupy.cuda.Device(self._device):
            return self._cupy.ascontiguousarray(array)

    def upload(self, array: npt.NDArray[Any]) -> Any:
        with self._cupy.cuda.Device(self._device):
            return self._cupy.asarray(array)

    def broadcast(self, array: Any, n: int) -> Any:
        with self._cupy.cuda.Device(self._device):
            return self._cupy.ascontiguousarray(self._cupy.broadcast_to(array.reshape(1), (n,)))

    def assign(self, target: Any, source: Any) -> None:
        with self._cupy.cuda.Device(self._device):
            target[...] = source


class _Other:
    """Any other library. Where its array API namespace lacks a function, the error says what to pass instead."""

    def __init__(self, sample: Any) -> None:
        self._sample = sample
        self._name = type(sample).__module__.partition(".")[0]
        self._stream = 0

    def view(self, array: Any) -> View:
        described = getattr(array, "__cuda_array_interface__", None)
        if described is None:
            # Stream 1 is the legacy default stream: the library has its work on the array done before what comes there.
            capsule = array.__dlpack__(stream=1)
            found = native.load().dlpack(capsule)
            return View(
                found["pointer"], found["shape"], found["strides"], np.dtype(found["typestr"]).name, found["device"], array, capsule
            )
        if described.get("mask") is not None:
            raise TypeError("a masked array, whose mask a matrix product cannot honour; pass it filled")
        kind = np.dtype(described["typestr"])
        shape = tuple(described["shape"])
        strides = described.get("strides")
        steps = _dense_strides(shape) if strides is None else tuple(stride // kind.itemsize for stride in strides)
        device = _dlpack_device(array)
        # The stream on which the data are ready; None from libraries without streams.
        self._stream = described.get("stream") or self._stream
        return View(described["data"][0], shape, steps, kind.name, native.load().current_device() if device is None else device, array)

    def device(self, array: Any) -> int:
        return self.view(array).device

    def stream(self) -> int:
        return self._stream

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        xp = self._namespace("pass out=")
        return xp.empty(tuple(shape), dtype=getattr(xp, dtype), device=self._sample.device)

    def workspace(self, size: int) -> tuple[int, object]:
        return _own_workspace(size, self.view(self._sample).device)

    def contiguous(self, array: Any) -> Any:
        return self._function("ascontiguousarray", "pass a C-contiguous array")(array)

    def upload(self, array: npt.NDArray[Any]) -> Any:
        xp = self._namespace("pass arrays on the device")
        return xp.asarray(np.ascontiguousarray(array), device=self._sample.device)

    def broadcast(self, array: Any, n: int) -> Any:
        return dense(self, self._function("broadcast_to", f"pass {n} values")(array, (n,)))

    def assign(self, target: Any, source: Any) -> None:
        target[...] = source

    def _namespace(self, instead: str) -> Any:
        ask = getattr(self._sample, "__array_namespace__", None)
        # jax's arrays are immutable: jax may have copied or reused one by the time that a kernel writes to it.
        if ask is None or self._name in ("jax", "jaxlib"):
            raise TypeError(f"{self._name} arrays are nothing that ulp can make or write: {instead}, or use torch or cupy")
        return ask()

    def _function(self, name: str, instead: str) -> Any:
        function = getattr(self._namespace(instead), name, None)
        if function is None:
            raise TypeError(f"{self._name} has no {name}: {instead}")
        return function


class HostArray:
    """A C-contiguous array in a device's memory that stands for a numpy array during one call."""

    __slots__ = ("buffer", "dtype", "shape")

    def __init__(self, buffer: Any, shape: Sequence[int], dtype: str) -> None:
        self.buffer, self.shape, self.dtype = buffer, tuple(shape), dtype


class Host:
    """numpy arrays, copied to the device and back, on the default stream."""

    def __init__(self, device: int) -> None:
        self._device = device

    def view(self, array: HostArray) -> View:
        return View(array.buffer.pointer, array.shape, _dense_strides(array.shape), array.dtype, self._device, array)

    def device(self, array: HostArray) -> int:
        return int(array.buffer.device)

    def stream(self) -> int:
        return 0

    def empty(self, shape: Sequence[int], dtype: str) -> HostArray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return HostArray(native.load().Buffer(size, self._device), shape, dtype)

    def workspace(self, size: int) -> tuple[int, object]:
        return _own_workspace(size, self._device)

    def contiguous(self, array: HostArray) -> HostArray:
        return array

    def upload(self, array: npt.NDArray[Any]) -> HostArray:
        return HostArray(native.load().Buffer.from_numpy(array, self._device), array.shape, array.dtype.name)

    def broadcast(self, array: HostArray, n: int) -> HostArray:
        return self.upload(np.repeat(to_numpy(self, array), n))

    def assign(self, target: HostArray, source: HostArray) -> None:
        target.buffer = source.buffer


def _own_workspace(size: int, device: int) -> tuple[int, object]:
    """Memory whose release waits for the device: no other library's allocator knows the order of work on a stream."""
    buffer = native.load().Buffer(size, device)
    return buffer.pointer, buffer


def _dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * shape[i]
    return tuple(strides)
