"""Typed view of the native module for GPUs, which is built with -DULP_CUDA=ON. `ulp._gpu` wraps it; nothing here is public.

Pointers are addresses in a device's memory; a stream is a cudaStream_t as an int, 0 is the default one. Strides are in bytes unless the
text says otherwise. ValueError for numbers that do not fit, RuntimeError with the driver's reason, MemoryError if the device is full.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

class OutOfRange(ValueError):  # noqa: N818  # the name of the native class, which users meet as ValueError
    """A value lies outside its interval. args[0]: index of the first one, counted row by row, or -1 if it is not known."""

class Weights:
    """b (k, n), packed for the tensor cores (csrc/cuda/layout.h), on one device."""

    @staticmethod
    def from_host(b: npt.NDArray[Any], bits: int, device: int) -> Weights:
        """b: (k, n) uint8 or int8, any strides. Raises OutOfRange(-1)."""
    @staticmethod
    def from_device(
        pointer: int, k: int, n: int, stride_k: int, stride_n: int, signed: bool, bits: int, device: int, stream: int
    ) -> Weights:
        """Packs on the device. Waits for the stream. Raises OutOfRange."""
    @property
    def k(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def bits(self) -> int: ...
    @property
    def signed(self) -> bool: ...
    @property
    def device(self) -> int: ...
    @property
    def nbytes(self) -> int:
        """Bytes of the packed values, without the channel sums."""
    def to_host(self) -> npt.NDArray[np.uint8]:
        """The packed bytes, a copy."""
    def sums(self) -> npt.NDArray[np.int32]:
        """The channel sums of the stored values, (n,), a copy."""
    def unpack(self) -> npt.NDArray[Any]:
        """The values, (k, n) uint8 or int8, in host memory."""

class Buffer:
    """Bytes of a device's memory; freed with the object."""

    def __init__(self, nbytes: int, device: int) -> None: ...
    @staticmethod
    def from_numpy(array: npt.NDArray[Any], device: int) -> Buffer:
        """The array's elements in C order."""
    @property
    def pointer(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> int: ...

class Activations:
    """a of a product: m rows of bytes in a device's memory, columns adjacent, row_stride bytes apart."""

    def __init__(self, *, pointer: int, m: int, row_stride: int, bits: int, signed: bool, zero: int = ...) -> None: ...

class Epilogue:
    """What follows the sum, as `ulp.gemm` takes it. scales (instead of scale), bias (int32), float_bias: pointers to n values, or 0.

    The default stores the int32 sums.
    """

    def __init__(
        self,
        *,
        kind: Literal["int32", "float32", "quantized"] = ...,
        scale: float = ...,
        scales: int = ...,
        bias: int = ...,
        float_bias: int = ...,
        relu: bool = ...,
        out_bits: int = ...,
        out_signed: bool = ...,
        out_zero: int = ...,
    ) -> None: ...

class Network:
    """The steps of a plan on one device (csrc/cuda/network.h). Tensors and steps are added as ulp/_gpu/steps.py does, then it is finalized.

    Places are (tensor, first channel). Fields of steps go by name and are those that a plan of the CPU has accepted, with offsets and
    scales in the device's terms.
    """

    def __init__(self, device: int) -> None: ...
    def codes(self, *, height: int, width: int, channels: int, bits: int, zero: int, scale: float) -> int: ...
    def floats(self, *, height: int, width: int, channels: int) -> int: ...
    def input(self, **fields: Any) -> None: ...
    def conv(self, **fields: Any) -> None: ...
    def depthwise(self, **fields: Any) -> None: ...
    def max_pool(self, **fields: Any) -> None: ...
    def window_mean(self, **fields: Any) -> None: ...
    def rescale(self, **fields: Any) -> None: ...
    def move(self, **fields: Any) -> None: ...
    def lookup(self, **fields: Any) -> None: ...
    def linear_floats(self, **fields: Any) -> None: ...
    def combine(self, **fields: Any) -> None: ...
    def rows(self, **fields: Any) -> None: ...
    def product(self, **fields: Any) -> None: ...
    def attention(self, **fields: Any) -> None: ...
    def dynamic_linear(self, **fields: Any) -> None: ...
    def grouped_linear(self, **fields: Any) -> None: ...
    def recurrent(self, **fields: Any) -> None: ...
    def output(self, **fields: Any) -> None: ...
    def finalize(self) -> None: ...
    def run(self, *, images: int, inputs: Sequence[int], outputs: Sequence[int], stream: int) -> None:
        """Starts all steps; inputs and outputs are pointers. The first run of a number of images may allocate and wait."""
    def start_step(self, step: int, images: int, stream: int) -> None:
        """Starts one step that has no port, on what the arena holds. For benchmarks; needs a `run` of as many images, or more, before."""
    def status(self, stream: int) -> tuple[bool, bool]:
        """Of the last run: whether something that is quantized was not finite, and whether an input's code was too large, or the
        length of a sequence none. Waits.
        """
    def methods(self, images: int) -> list[str]:
        """What computes each step for so many images; results come last."""
    @property
    def arena_bytes(self) -> int:
        """Of one image."""
    @property
    def device(self) -> int: ...

def conv_kernels() -> list[str]:
    """Names of the convolutions' kernels, best first."""

def planes_pay(*, a_bits: int, b_bits: int, device: int) -> bool:
    """Whether convolutions of these bits may be faster by bit planes there, so that they should have weights for both."""

def build_info() -> dict[str, str]:
    """cuda (version), architectures, kernels."""

def devices() -> list[dict[str, Any]]:
    """name, arch (10 * major + minor), sms, memory (bytes) of each. RuntimeError with the driver's reason if there is none."""

def current_device() -> int:
    """Of the calling thread."""

def kernels() -> list[str]:
    """Names, best first."""

def pick(
    m: int,
    n: int,
    k: int,
    a_bits: int,
    a_signed: bool,
    b_bits: int,
    arch: int,
    sms: int,
    aligned: bool,
    kernel: str | None = ...,
    *,
    b_signed: bool = ...,
    b_zero_point: bool = ...,
) -> dict[str, Any]:
    """The choice for a call: kernel, tile (m, n, k), grid (x, y, z), splits, shared_bytes, workspace_bytes, clocks (modelled), text.

    Asks no device. kernel: a name, also with a number of parts of K: "wgmma_128x16/4".
    aligned: rows of a start at multiples of 16 bytes. b_zero_point: some b_zero is not 0. ValueError for a kernel that cannot.
    """

def check(a: Activations, k: int, device: int, stream: int) -> int:
    """Index of the first of a's (m, k) values outside its interval, counted row by row, or -1. Waits for the stream."""

def workspace(a: Activations, weights: Weights, *, b_zero_point: bool = ..., kernel: str | None = ...) -> int:
    """Bytes that `gemm` must be given for this call, at a multiple of 256. b_zero_point: some b_zero is not 0, or b_zeros is given."""

def gemm(
    a: Activations,
    weights: Weights,
    epilogue: Epilogue,
    *,
    b_zero: int = ...,
    b_zeros: int = ...,
    out: int,
    out_stride: int,
    workspace: int = ...,
    workspace_bytes: int = ...,
    stream: int = ...,
    kernel: str | None = ...,
) -> None:
    """Starts `ulp.gemm` of a with the weights. Neither waits nor allocates, so that a stream under capture accepts it.

    b_zeros: pointer to n int32 zero points instead of b_zero, or 0. out_stride: in elements. The caller has checked that values lie in
    their intervals and sums in int32, and keeps every array until the stream is past the call.
    """

def to_numpy(pointer: int, shape: Sequence[int], dtype: np.dtype[Any], device: int, stream: int) -> npt.NDArray[Any]:
    """A copy of a C-contiguous array in a device's memory. Waits for the stream."""

def dlpack(capsule: object) -> dict[str, Any]:
    """The array of a capsule of `__dlpack__`: pointer, shape, strides (elements), typestr ("|i1"), device. The capsule owns the memory."""
