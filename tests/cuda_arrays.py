"""Arrays "on a device" for the tests of the Python side: memory of the emulator, or of the double, behind the interfaces of torch, cupy and
others. Each facade has what `ulp` asks of its library and nothing more. `host` is the same memory as a numpy array.
"""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp._gpu import native

_allocations: list[tuple[int, int, object]] = []
"""Begin, end and owner of everything that was allocated; small, and never freed."""


def new(shape: Any, dtype: Any) -> npt.NDArray[Any]:
    """A new array in device memory, at a multiple of 256 bytes, with arbitrary contents."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size == 0:
        return np.empty(shape, kind)
    owner = native.load().Buffer(size, 0)
    _allocations.append((owner.pointer, owner.pointer + size, owner))
    memory = np.frombuffer((ctypes.c_uint8 * size).from_address(owner.pointer), dtype=np.uint8)
    memory[...] = 0x5A
    array: npt.NDArray[Any] = memory.view(kind).reshape(shape)
    return array


def there(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array if it lies on the device, else a copy there, of the same strides and the same alignment to 16 bytes."""
    pointer = array.ctypes.data
    if array.size == 0 or any(begin <= pointer < end for begin, end, _ in _allocations):
        return array
    spans = [(length - 1) * stride for length, stride in zip(array.shape, array.strides, strict=True)]
    low, high = sum(min(span, 0) for span in spans), sum(max(span, 0) for span in spans) + array.itemsize
    shift = (pointer + low) % 16
    memory = new((shift + high - low,), np.uint8)
    ctypes.memmove(memory.ctypes.data + shift, pointer + low, high - low)
    first = memory[shift - low : shift - low + array.itemsize].view(array.dtype)
    return np.lib.stride_tricks.as_strided(first, array.shape, array.strides)


class DeviceArray:
    """A numpy array that says it is on a device."""

    def __init__(self, host: npt.NDArray[Any], device: int = 0) -> None:
        self.host = there(host)
        self.index = device

    @property
    def shape(self) -> tuple[int, ...]:
        return self.host.shape


class OtherArray(DeviceArray):
    """By `__cuda_array_interface__` and the array API standard. Cannot be read on the host."""

    stream: int | None = 7

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.host.__array_interface__, "version": 3, "stream": self.stream}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.index

    @property
    def device(self) -> str:
        return f"gpu{self.index}"

    def __array__(self, *_: object, **__: object) -> npt.NDArray[Any]:
        raise TypeError("an array on a device does not convert")

    def __setitem__(self, key: Any, value: OtherArray) -> None:
        self.host[key] = value.host

    def __array_namespace__(self) -> Any:
        index = self.index
        return SimpleNamespace(
            **{name: np.dtype(name) for name in ("uint8", "int8", "int32", "float32")},
            empty=lambda shape, dtype, **_: OtherArray(new(shape, dtype), index),
            asarray=lambda x, **_: OtherArray(np.array(x), index),
            ascontiguousarray=lambda x: OtherArray(np.ascontiguousarray(x.host), index),
            broadcast_to=lambda x, shape: OtherArray(np.broadcast_to(x.host, shape), index),
        )


class CupyArray(DeviceArray):
    """As cupy.ndarray."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.host.ctypes.data)

    @property
    def strides(self) -> tuple[int, ...]:
        return self.host.strides

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.host.dtype

    @property
    def device(self) -> Any:
        return SimpleNamespace(id=self.index)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        raise AssertionError("cupy's arrays are asked directly")

    def reshape(self, *shape: int) -> CupyArray:
        return CupyArray(self.host.reshape(*shape), self.index)

    def __setitem__(self, key: Any, value: CupyArray) -> None:
        self.host[key] = value.host


class _CupyDevice:
    current: list[int] = [0]  # noqa: RUF012  # the one of the process

    def __init__(self, index: int) -> None:
        self.index = index

    def __enter__(self) -> None:
        self.current.append(self.index)

    def __exit__(self, *_: object) -> None:
        self.current.pop()


def fake_cupy() -> Any:
    """A module `cupy`."""
    current = _CupyDevice.current
    return SimpleNamespace(
        ndarray=CupyArray,
        empty=lambda shape, dtype: CupyArray(new(shape, dtype), current[-1]),
        asarray=lambda x: CupyArray(np.array(x), current[-1]),
        ascontiguousarray=lambda x: CupyArray(np.ascontiguousarray(x.host), x.index),
        broadcast_to=lambda x, shape: CupyArray(np.broadcast_to(x.host, shape), x.index),
        cuda=SimpleNamespace(Device=_CupyDevice, get_current_stream=lambda: SimpleNamespace(ptr=11 + current[-1])),
    )


class TorchDtype:
    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"torch.{self.name}"


class TorchTensor(DeviceArray):
    """As torch.Tensor on a CUDA device, or on the CPU with device=None."""

    layout = "strided"
    _dtype: TorchDtype | None = None

    @property
    def is_cuda(self) -> bool:
        return self.index is not None

    @property
    def dtype(self) -> TorchDtype:
        return self._dtype or TorchDtype(self.host.dtype.name)

    @property
    def device(self) -> Any:
        return SimpleNamespace(type="cuda", index=self.index)

    def data_ptr(self) -> int:
        return self.host.ctypes.data

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.host.itemsize for step in self.host.strides)

    def contiguous(self) -> TorchTensor:
        return TorchTensor(np.ascontiguousarray(self.host), self.index)

    def reshape(self, *shape: int) -> TorchTensor:
        return TorchTensor(self.host.reshape(*shape), self.index)

    def expand(self, n: int) -> TorchTensor:
        return TorchTensor(np.broadcast_to(self.host, (n,)), self.index)

    def to(self, device: Any) -> TorchTensor:
        return TorchTensor(self.host.copy(), device.index)

    def copy_(self, source: TorchTensor) -> None:
        self.host[...] = source.host

    def __array__(self, *_: object, **__: object) -> npt.NDArray[Any]:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")


def fake_torch() -> Any:
    """A module `torch` whose allocator ends at a gigabyte."""

    class OutOfMemoryError(RuntimeError):
        pass

    def empty(shape: tuple[int, ...], dtype: np.dtype[Any], device: Any) -> TorchTensor:
        if np.prod(shape, dtype=float) * dtype.itemsize > 2**30:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return TorchTensor(new(shape, dtype), device.index)

    return SimpleNamespace(
        Tensor=TorchTensor,
        strided="strided",
        empty=empty,
        from_numpy=lambda x: TorchTensor(x, None),  # type: ignore[arg-type]  # None stands for the CPU
        cuda=SimpleNamespace(
            OutOfMemoryError=OutOfMemoryError, current_stream=lambda device: SimpleNamespace(cuda_stream=21 + device.index)
        ),
        **{name: np.dtype(name) for name in ("uint8", "int8", "int32", "float32")},
    )
