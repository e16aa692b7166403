"""`CudaPackedMatrix`: weights packed on a GPU, and the ways there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ulp._matrix import Matrix, move
from ulp._validate import IntArray, check_matrix, check_range, no_integers, out_of_range, weight_codes

from . import native
from .arrays import View, library_of, on_gpu, to_numpy

if TYPE_CHECKING:
    from ulp._cuda import Weights

BYTES = ("uint8", "int8", "bool")


class CudaPackedMatrix(Matrix):
    """A (K, N) matrix of 1- to 8-bit integers in the memory of a GPU, `bits` bits per value, padded to 128 in K and 16 in N. Immutable.

    Made by `ulp.pack(b, bits=..., device="cuda")`, from an array on the device, or by `PackedMatrix.to("cuda")`. Pickling works, by way of
    the CPU: it unpickles to the device of the same number. To save it to a file, `matrix.to("cpu").save(path)`.
    """

    __slots__ = ()

    _packed: Weights

    def __init__(self, weights: Weights) -> None:
        if not isinstance(weights, native.load().Weights):
            raise TypeError('a CudaPackedMatrix comes from ulp.pack(b, bits=..., device="cuda") or PackedMatrix.to("cuda")')
        super().__init__(weights)

    @property
    def device(self) -> str:
        """Where it is: "cuda:0"."""
        return f"cuda:{self._index}"

    @property
    def _index(self) -> int:
        return self._packed.device

    def unpack(self) -> IntArray:
        """The values as a new (K, N) numpy array of `dtype`. Waits for the device."""
        return self._packed.unpack()

    def to(self, device: str) -> Any:
        """A `PackedMatrix` of the same values for device="cpu"; for another GPU a copy there; for its own the matrix itself."""
        return super().to(device)

    def __reduce__(self) -> tuple[Any, ...]:
        return move, (self.to("cpu"), self.device)


def _from_host(values: IntArray, bits: int, index: int | None) -> CudaPackedMatrix:
    return CudaPackedMatrix(native.load().Weights.from_host(values, bits, index))


Matrix._makers["cuda"] = _from_host


def pack_for_gpu(b: Any, bits: int, device: object) -> CudaPackedMatrix | None:
    """b packed on the device, or where b is if that is None; None for the CPU. Precondition: bits is in 1..8."""
    index = common_device(device, {"b": b})
    if index is None:
        return None
    if on_gpu(b):
        library = library_of(b)
        view = library.view(b)
        check_matrix(view.shape)
        if view.dtype in BYTES:
            return CudaPackedMatrix(_pack_there(library, b, view, bits))
        if not view.dtype.startswith(("int", "uint")):
            raise no_integers("b", view.dtype, floats="float" in view.dtype)
        # The sign of other integers is in their values.
        b = to_numpy(library, b)
    codes = weight_codes(b, bits)
    check_range(codes, "b", bits, codes.dtype == np.int8)
    return _from_host(codes, bits, index)


def _pack_there(library: Any, b: Any, view: View, bits: int) -> Weights:
    if min(view.strides) < 0:
        view = library.view(library.contiguous(b))
    (k, n), (stride_k, stride_n) = view.shape, view.strides
    module = native.load()
    try:
        packed: Weights = module.Weights.from_device(
            view.pointer, k, n, stride_k, stride_n, view.dtype == "int8", bits, view.device, library.stream()
        )
    except module.OutOfRange:
        raise out_of_range(to_numpy(library, b), "b", bits) from None
    return packed


def place(x: Any) -> int | None:
    """The number of the CUDA device that an operand lies on; None for the CPU."""
    if isinstance(x, Matrix):
        return x._index
    return library_of(x).device(x) if on_gpu(x) else None


def common_device(device: object, operands: dict[str, Any]) -> int | None:
    """The number of the GPU that a call runs on; None for the CPU. `device` is the caller's argument, or None.

    With a device given, operands on the CPU are copied. ValueError where an operand is on another device than the rest.
    """
    places = {name: place(x) for name, x in operands.items()}
    on_devices = {name: where for name, where in places.items() if where is not None}
    if device is None:
        index = next(iter(on_devices.values()), None)
    else:
        index = native.device_index(device)
        if device == "cuda" and on_devices:
            index = next(iter(on_devices.values()))
    for name, where in places.items():
        if where == index or (where is None and device is not None):
            continue
        if where is None:
            there = f"cuda:{index}"
            raise ValueError(
                f'{name} is on the CPU and {", ".join(on_devices)} on {there}: move {name} there, or pass device="{there}", which copies it'
            )
        other = "the CPU" if index is None else f"cuda:{index}"
        raise ValueError(f"{name} is on cuda:{where}, not on {other}: move it there first")
    return index
