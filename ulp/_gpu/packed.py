"""`CudaPackedMatrix`: weights packed on a GPU, and the ways there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ulp import _core
from ulp._validate import IntArray, check_range, no_integers, out_of_range
from ulp.packed import PackedMatrix, check_matrix, weight_codes

from . import native
from .arrays import View, library_of, on_gpu, to_numpy

if TYPE_CHECKING:
    from ulp._cuda import Weights

BYTES = ("uint8", "int8", "bool")


class CudaPackedMatrix:
    """A (K, N) matrix of 1- to 8-bit integers in the memory of a GPU, `bits` bits a value, padded to 128 in K and 16 in N. Immutable.

    Made by `ulp.pack(b, bits=..., device="cuda")`, from an array on the device, or by `PackedMatrix.to("cuda")`. Pickling works, by way of
    the CPU: it unpickles to the device of the same number. To save it to a file, `matrix.to("cpu").save(path)`.
    """

    __slots__ = ("_weights",)

    _weights: Weights

    def __init__(self, weights: Weights) -> None:
        if not isinstance(weights, native.load().Weights):
            raise TypeError('a CudaPackedMatrix comes from ulp.pack(b, bits=..., device="cuda") or PackedMatrix.to("cuda")')
        object.__setattr__(self, "_weights", weights)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a CudaPackedMatrix is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a CudaPackedMatrix is immutable: cannot delete {name!r}")

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        return self._weights.k, self._weights.n

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def bits(self) -> int:
        """Bits a value, 1..8."""
        return self._weights.bits

    @property
    def signed(self) -> bool:
        """Whether values are signed: two's complement, or -1 and +1 at 1 bit."""
        return self._weights.signed

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or int8: the dtype of `unpack()`, and of the values that `pack` was given."""
        return np.dtype(np.int8 if self._weights.signed else np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored values, without the channel sums."""
        return self._weights.nbytes

    @property
    def device(self) -> str:
        """Where it is: "cuda:0"."""
        return f"cuda:{self._weights.device}"

    def unpack(self) -> IntArray:
        """The values as a new (K, N) numpy array of `dtype`. Waits for the device."""
        return self._weights.unpack()

    def to(self, device: str) -> Any:
        """A `PackedMatrix` of the same values for device="cpu"; for another GPU a copy there; for its own the matrix itself."""
        return move(self, device)

    def __repr__(self) -> str:
        k, n = self.shape
        sign = "signed" if self.signed else "unsigned"
        return f"CudaPackedMatrix(shape=({k}, {n}), bits={self.bits}, {sign}, nbytes={self.nbytes}, device='{self.device}')"

    def __copy__(self) -> CudaPackedMatrix:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CudaPackedMatrix:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return move, (self.to("cpu"), self.device)


def move(matrix: PackedMatrix | CudaPackedMatrix, device: object) -> PackedMatrix | CudaPackedMatrix:
    """The matrix on a device: itself where it is there already."""
    index = native.device_index(device)
    here = place(matrix)
    # "cuda" without a number is any GPU.
    if index == here or (index is not None and here is not None and device == "cuda"):
        return matrix
    if index is None:
        return PackedMatrix(_core.pack(matrix.unpack(), matrix.bits))
    return CudaPackedMatrix(native.load().Weights.from_host(matrix.unpack(), matrix.bits, index))


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
    return CudaPackedMatrix(native.load().Weights.from_host(codes, bits, index))


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
    if isinstance(x, CudaPackedMatrix):
        return x._weights.device
    return library_of(x).device(x) if on_gpu(x) else None


def common_device(device: object, operands: dict[str, Any]) -> int | None:
    """The device that a call runs on, where `device` is the caller's wish or None; None for the CPU.

    With a wish, operands on the CPU are copied. ValueError where an operand is on another device than the rest.
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
