"""Products through the CUDA bindings with numpy operands: on a GPU by `ulp._cuda`, or on the emulated one, whichever module is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from reference import Array

import ulp


@dataclass(frozen=True)
class Epilogue:
    """The epilogue as `ulp.gemm` takes it: arrays of N, or scalars."""

    scale: float | Array = 1.0
    bias: Array | None = None
    relu: bool = False
    out_bits: int = 0
    out_signed: bool = False
    out_zero: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.out_bits == 0:
            return np.dtype(np.float32)
        return np.dtype(np.int8 if self.out_signed else np.uint8)


class Cuda:
    """The native module with numpy operands and results."""

    def __init__(self, native: Any) -> None:
        self.native = native

    def upload(self, array: Array) -> Any:
        return self.native.Buffer.from_numpy(np.ascontiguousarray(array).reshape(-1), 0)

    def gemm(
        self,
        a: Array,
        b: Array | Any,
        bits: tuple[int, int],
        kernel: str | None = None,
        *,
        a_zero: int = 0,
        b_zero: int | Array = 0,
        epilogue: Epilogue | None = None,
        row_stride: int | None = None,
        offset: int = 0,
    ) -> Array:
        """sum (a - a_zero) (b - b_zero): a (M, K) and b (K, N) bytes, or packed b. Rows of a lie `row_stride` bytes apart."""
        m, k = a.shape
        weights = b if isinstance(b, self.native.Weights) else self.native.Weights.from_host(b, bits[1], 0)
        stride = (k + 15) // 16 * 16 if row_stride is None else row_stride
        # 0xFF between the rows, which no kernel may use.
        host = np.full(offset + max(m, 1) * max(stride, 1) + 16, 0xFF, dtype=np.uint8)
        rows = np.lib.stride_tricks.as_strided(host[offset:], (m, k), (stride, 1))
        rows[...] = a.view(np.uint8)
        operand = self.upload(host)
        out_dtype = np.dtype(np.int32) if epilogue is None else epilogue.dtype
        out = self.upload(np.full(m * weights.n * out_dtype.itemsize, 0xA5, dtype=np.uint8))
        e = Epilogue() if epilogue is None else epilogue
        scales = self.upload(np.asarray(e.scale, np.float32)) if isinstance(e.scale, np.ndarray) else None
        bias = None if e.bias is None else self.upload(e.bias)
        float_bias = e.bias is not None and e.bias.dtype == np.float32
        zeros = self.upload(b_zero.astype(np.int32)) if isinstance(b_zero, np.ndarray) else None
        native = self.native
        activations = native.Activations(
            pointer=operand.pointer + offset, m=m, row_stride=stride, bits=bits[0], signed=a.dtype == np.int8, zero=a_zero
        )
        end = native.Epilogue()
        if epilogue is not None:
            end = native.Epilogue(
                kind="quantized" if e.out_bits else "float32",
                scale=1.0 if scales is not None else float(np.float32(e.scale)),
                scales=0 if scales is None else scales.pointer,
                bias=0 if bias is None or float_bias else bias.pointer,
                float_bias=bias.pointer if bias is not None and float_bias else 0,
                relu=e.relu,
                out_bits=e.out_bits or 8,
                out_signed=e.out_signed,
                out_zero=e.out_zero,
            )
        size = native.workspace(activations, weights, b_zero_point=zeros is not None or b_zero != 0, kernel=kernel)
        workspace = native.Buffer(size, 0)
        native.gemm(
            activations,
            weights,
            end,
            b_zero=0 if isinstance(b_zero, np.ndarray) else b_zero,
            b_zeros=0 if zeros is None else zeros.pointer,
            out=out.pointer,
            out_stride=weights.n,
            workspace=workspace.pointer,
            workspace_bytes=size,
            kernel=kernel,
        )
        result: Array = self.native.to_numpy(out.pointer, (m, weights.n), out_dtype, 0, 0)
        return result

    def runs(self, kernel: str, bits: tuple[int, int], arch: int) -> bool:
        """Whether this kernel runs such a product on this architecture."""
        try:
            self.native.pick(16, 16, 128, bits[0], False, bits[1], arch, 16, True, kernel)
        except ValueError:
            return False
        return True


def on_cpu(a: Array, b: Array, bits: tuple[int, int], a_zero: int, b_zero: int | Array, e: Epilogue) -> Array:
    """The same by the CPU's kernels."""
    return ulp.gemm(
        a,
        b,
        bits=bits,
        a_zero=a_zero,
        b_zero=b_zero,
        scale=e.scale,
        bias=e.bias,
        relu=e.relu,
        out_bits=e.out_bits or None,
        out_signed=e.out_signed,
        out_zero=e.out_zero,
    )
