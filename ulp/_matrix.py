"""`Matrix`: what packed weights on the CPU (packed.py) and on a GPU (_gpu/packed.py) have in common, and the way from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from ._gpu import native
from ._validate import IntArray


class Matrix:
    """A packed (K, N) matrix of 1- to 8-bit integers. Immutable."""

    __slots__ = ("_bits", "_packed")

    # By kind of device, "cpu" or "cuda": makes a matrix there from values on the host, their bits and the number of the GPU. Each kind
    # enters its own, so that neither imports the other.
    _makers: ClassVar[dict[str, Callable[[IntArray, int, int | None], Matrix]]] = {}

    _packed: Any
    """The native matrix, with k, n, bits, signed and nbytes."""
    _bits: int

    def __init__(self, packed: Any) -> None:
        object.__setattr__(self, "_packed", packed)
        object.__setattr__(self, "_bits", packed.bits)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} is immutable: cannot delete {name!r}")

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        return self._packed.k, self._packed.n

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def bits(self) -> int:
        """Bits per value, 1..8."""
        return self._bits

    @property
    def signed(self) -> bool:
        """Whether values are signed: two's complement, or -1 and +1 at 1 bit."""
        return bool(self._packed.signed)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or int8: the dtype of `unpack()`, and of the values that `pack` was given."""
        return np.dtype(np.int8 if self._packed.signed else np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored values, without their sums per column."""
        return int(self._packed.nbytes)

    @property
    def _index(self) -> int | None:
        """The number of the GPU that holds it; None on the CPU."""
        return None

    def unpack(self) -> IntArray:
        """The values as a new (K, N) numpy array of `dtype`."""
        raise NotImplementedError

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> IntArray:
        """For numpy.asarray: the values, unpacked."""
        if copy is False:
            raise ValueError(f"a {type(self).__name__} holds packed values: unpacking makes an array, which copy=False forbids")
        return self.unpack() if dtype is None else self.unpack().astype(dtype, copy=False)

    def to(self, device: str) -> Any:
        """The matrix on another device."""
        return move(self, device)

    def __repr__(self) -> str:
        k, n = self.shape
        sign = "signed" if self.signed else "unsigned"
        place = "" if self._index is None else f", device='cuda:{self._index}'"
        return f"{type(self).__name__}(shape=({k}, {n}), bits={self._bits}, {sign}, nbytes={self.nbytes}{place})"

    def __copy__(self) -> Matrix:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Matrix:
        return self


def move(matrix: Matrix, device: object) -> Matrix:
    """The matrix on a device: itself where it is there already. Pickles of matrices on a GPU call this function."""
    index = native.device_index(device)
    here = matrix._index
    # "cuda" without a number is any GPU.
    if index == here or (index is not None and here is not None and device == "cuda"):
        return matrix
    return Matrix._makers["cpu" if index is None else "cuda"](matrix.unpack(), matrix.bits, index)
