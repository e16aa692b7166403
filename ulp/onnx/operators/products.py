"""Products of matrices of floats, by BLAS."""

from __future__ import annotations

import numpy as np

from ulp.onnx.model import OnnxError

from .registry import Array, Call, integer, number, operator


@operator("MatMul", "A:number B:number")
def matmul(call: Call, a: Array, b: Array) -> Array:
    """numpy.matmul."""
    if a.ndim == 0 or b.ndim == 0:
        raise OnnxError("A and B have one dimension or more")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    call.allow([*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ())], a.dtype)
    return np.asarray(np.matmul(a, b))


@operator("Gemm", "A:number B:number C:number?", alpha=number(1.0), beta=number(1.0), transA=integer(0), transB=integer(0))
def gemm(call: Call, a: Array, b: Array, c: Array | None = None) -> Array:
    """alpha * A B + beta * C, A and B transposed as asked; C broadcasts to the product."""
    if a.ndim != 2 or b.ndim != 2:
        raise OnnxError(f"A has shape {list(a.shape)} and B {list(b.shape)}: expected two dimensions each")
    left, right = (a.T if call["transA"] else a), (b.T if call["transB"] else b)
    shape = left.shape[0], right.shape[1]
    call.allow(shape, a.dtype)
    product = left @ right
    if call["alpha"] != 1:
        product = (product * a.dtype.type(call["alpha"])).astype(a.dtype)
    if c is None:
        return product
    if np.broadcast_shapes(shape, c.shape) != shape:
        raise OnnxError(f"C of shape {list(c.shape)} does not broadcast to {list(shape)}")
    return product + (c if call["beta"] == 1 else c * a.dtype.type(call["beta"]))
