"""Each wrong argument gives the right exception, with a message that names it and says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ulp

U8 = np.zeros((2, 4), dtype=np.uint8)
W = ulp.pack(np.ones((4, 3), dtype=np.int8), 3)
gemm: Any = ulp.gemm
pack: Any = ulp.pack
explain: Any = ulp.explain
kernels: Any = ulp.kernels

CASES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "float a": (lambda: gemm(np.zeros((2, 4)), W), TypeError, "a has dtype float64.*quantize first"),
    "float32 b": (lambda: gemm(U8, np.zeros((4, 3), np.float32), bits=3), TypeError, "b has dtype float32.*quantize first"),
    "float packed": (lambda: pack(np.zeros((4, 3), np.float16), 3), TypeError, "b has dtype float16.*quantize first"),
    "complex a": (lambda: gemm(np.zeros((2, 4), complex), W), TypeError, "a has dtype complex128"),
    "text a": (lambda: gemm(np.full((2, 4), "x"), W), TypeError, "a has dtype <U1"),
    "object a": (lambda: gemm(np.full((2, 4), None), W), TypeError, "a has dtype object"),
    "dates": (lambda: gemm(np.zeros((2, 4), "M8[s]"), W), TypeError, "a has dtype datetime64"),
    "structured a": (lambda: gemm(np.zeros((2, 4), [("x", "u1")]), W), TypeError, "a has dtype"),
    "None a": (lambda: gemm(None, W), TypeError, "a has dtype object"),
    "ragged a": (lambda: gemm([[1, 2], [3]], W), TypeError, "a of type list does not convert"),
    "masked a": (lambda: gemm(np.ma.masked_equal(U8, 0), W), TypeError, r"a is a masked array.*filled"),
    "packed a": (lambda: gemm(W, W), TypeError, "only b can be packed"),
    "scalar a": (lambda: gemm(np.uint8(1), W), ValueError, "a is a scalar"),
    "a of another K": (lambda: gemm(np.zeros((2, 5), np.uint8), ulp.pack(np.ones((4, 3), np.int8), 3), out=None), ValueError, "5.*4"),
    "b as (N, K)": (lambda: gemm(U8, ulp.pack(np.ones((3, 4), np.int8), 3)), ValueError, r"b is \(K, N\): did you mean b\.T\?"),
    "unpacked b as (N, K)": (lambda: gemm(U8[0], np.ones((3, 4), np.int8), bits=3), ValueError, r"did you mean b\.T\?"),
    "batch of another K": (lambda: gemm(np.zeros((2, 2, 5), np.uint8), W), ValueError, r"K = 5 \(shape \(2, 2, 5\)\) but b has K = 4"),
    "vector b": (lambda: gemm(U8, np.zeros(4, np.uint8), bits=3), ValueError, r"b has shape \(4,\): expected two dimensions"),
    "batched b": (lambda: gemm(U8, np.zeros((2, 4, 3), np.uint8), bits=3), ValueError, "b has shape .* expected two dimensions"),
    "no bits": (lambda: gemm(U8, np.zeros((4, 3), np.uint8)), TypeError, r"bits is needed.*bits=3.*ulp\.pack"),
    "0 bits": (lambda: gemm(U8, U8.T, bits=0), ValueError, "bits=0: expected a bit width from 1 to 8"),
    "9 bits": (lambda: pack(U8, 9), ValueError, "bits=9: expected a bit width from 1 to 8"),
    "a float of bits": (lambda: gemm(U8, U8.T, bits=3.0), TypeError, "bits=3.0.*not float"),
    "a text of bits": (lambda: gemm(U8, U8.T, bits="3"), TypeError, "bits='3'.*not str"),
    "bool bits": (lambda: pack(U8, True), TypeError, "bits=True.*not a bool"),
    "three widths": (lambda: gemm(U8, U8.T, bits=(1, 2, 3)), ValueError, "pair"),
    "a bad second width": (lambda: gemm(U8, U8.T, bits=(1, 20)), ValueError, r"bits\[1\]=20"),
    "contradicting bits": (lambda: gemm(U8, W, bits=(3, 4)), ValueError, r"4-bit b, but b is packed at 3 bits; pass bits=\(3, 3\)"),
    "one contradicting width": (lambda: gemm(U8, W, bits=2), ValueError, r"pass bits=\(2, 3\)"),
    "unsigned out of range": (lambda: gemm(U8 + np.uint8(8), W), ValueError, r"a\[0, 0\] = 8 is outside 0\.\.7 \(unsigned 3-bit\); uint8"),
    "signed out of range": (
        lambda: gemm(np.array([[0, -4, 3, -5]], np.int8), W),
        ValueError,
        r"a\[0, 3\] = -5 is outside -4\.\.3 \(signed 3-bit\); int8 is read as signed, uint8 would be 0\.\.7",
    ),
    "bipolar zero": (
        lambda: pack(np.array([[1, -1], [0, 1]], np.int8), 1),
        ValueError,
        r"b\[1, 0\] = 0 is outside -1 or \+1 \(signed 1-bit\)",
    ),
    "int64 out of both": (lambda: pack(np.array([[1, 9]]), 3), ValueError, r"b\[0, 1\] = 9 is outside 0\.\.7.*-4\.\.3"),
    "int64 with both signs": (lambda: pack(np.array([[7, -1]]), 3), ValueError, r"b\[0, 0\] = 7 is outside -4\.\.3.*negative.*0\.\.7"),
    "int64 bipolar zero": (lambda: pack(np.array([[-1, 0]]), 1), ValueError, r"b\[0, 1\] = 0 is outside -1 or \+1"),
    "out of range in a batch": (lambda: gemm(np.array([[[1, 2, 3, 4]], [[5, 6, 7, 8]]], np.uint8), W), ValueError, r"a\[1, 0, 3\] = 8"),
    "out of range in a vector": (lambda: gemm(np.array([1, 2, 3, 9], np.uint8), W), ValueError, r"a\[3\] = 9"),
    "unknown kernel": (lambda: gemm(U8, W, kernel="mul9"), ValueError, f"mul9.*{re.escape(ulp.kernels()[-1].name)}"),
    "kernel name with a NUL": (lambda: gemm(U8, W, kernel=f"{ulp.kernels()[-1].name}\0"), ValueError, "NUL"),
    "kernel of no name": (lambda: gemm(U8, W, kernel=3), TypeError, r"kernel=3: expected the name.*ulp\.kernels"),
    "float a_zero": (lambda: gemm(U8, W, a_zero=0.5), TypeError, "a_zero=0.5.*not float"),
    "array a_zero": (lambda: gemm(U8, W, a_zero=np.zeros(3)), TypeError, "a_zero"),
    "bool a_zero": (lambda: gemm(U8, W, a_zero=True), TypeError, "a_zero=True.*not a bool"),
    "huge a_zero": (lambda: gemm(U8, W, a_zero=2**31), ValueError, "a_zero=2147483648"),
    "huge b_zero": (lambda: gemm(U8, W, b_zero=-(2**40)), ValueError, "b_zero=-1099511627776"),
    "b_zero of another length": (lambda: gemm(U8, W, b_zero=[1, 2]), ValueError, r"b_zero has shape \(2,\).*\(3,\)"),
    "float b_zero": (lambda: gemm(U8, W, b_zero=[0.0] * 3), TypeError, "b_zero has dtype float64"),
    "bool b_zero": (lambda: gemm(U8, W, b_zero=True), TypeError, "b_zero"),
    "b_zero past int32": (lambda: gemm(U8, W, b_zero=[0, 2**40, 0]), ValueError, "b_zero holds values that do not fit int32"),
    "sum past int32": (lambda: gemm(U8, W, a_zero=2**31 - 1), ValueError, "int32"),
    "out of no array": (lambda: gemm(U8, W, out=[0] * 6), TypeError, "out of type list"),
    "out of another shape": (
        lambda: gemm(U8, W, out=np.zeros((3, 2), np.int32)),
        ValueError,
        r"out has shape \(3, 2\): this call gives \(2, 3\)",
    ),
    "out of another dtype": (lambda: gemm(U8, W, out=np.zeros((2, 3), np.int64)), TypeError, "out has dtype int64: this call gives int32"),
    "out of another byte order": (lambda: gemm(U8, W, out=np.zeros((2, 3), ">i4")), TypeError, "out has dtype >i4"),
    "read-only out": (lambda: gemm(U8, W, out=np.broadcast_to(np.zeros(3, np.int32), (2, 3))), ValueError, "out is read-only"),
    "int out with scale": (lambda: gemm(U8, W, scale=1.0, out=np.zeros((2, 3), np.int32)), TypeError, "this call gives float32"),
    "bias without scale": (lambda: gemm(U8, W, bias=[1, 2, 3]), TypeError, "pass scale="),
    "relu without scale": (lambda: gemm(U8, W, relu=True), TypeError, "pass scale="),
    "out_bits without scale": (lambda: gemm(U8, W, out_bits=8), TypeError, "pass scale="),
    "out_zero without out_bits": (lambda: gemm(U8, W, scale=1.0, out_zero=1), TypeError, "pass out_bits="),
    "out_signed without out_bits": (lambda: gemm(U8, W, scale=1.0, out_signed=True), TypeError, "pass out_bits="),
    "text scale": (lambda: gemm(U8, W, scale="1"), TypeError, "scale has dtype"),
    "infinite scale": (lambda: gemm(U8, W, scale=np.inf), ValueError, "scale .* not finite"),
    "nan scale": (lambda: gemm(U8, W, scale=[1, np.nan, 1]), ValueError, "scale .* not finite"),
    "scale past float32": (lambda: gemm(U8, W, scale=1e39), ValueError, "scale .* not finite in float32"),
    "scale of another length": (lambda: gemm(U8, W, scale=[1.0, 2.0]), ValueError, r"scale has shape \(2,\)"),
    "float bias with out_bits": (
        lambda: gemm(U8, W, scale=1.0, bias=[0.5] * 3, out_bits=8),
        TypeError,
        "bias has dtype float64.*quantize it",
    ),
    "bias of another length": (lambda: gemm(U8, W, scale=1.0, bias=[1, 2]), ValueError, r"bias has shape \(2,\)"),
    "scalar bias": (lambda: gemm(U8, W, scale=1.0, bias=1), ValueError, r"bias has shape \(\)"),
    "bool bias": (lambda: gemm(U8, W, scale=1.0, bias=[True] * 3), TypeError, "bias has dtype bool"),
    "bias past int32": (lambda: gemm(U8, W, scale=1.0, bias=[2**31, 0, 0]), ValueError, "bias holds values that do not fit int32"),
    "9 out_bits": (lambda: gemm(U8, W, scale=1.0, out_bits=9), ValueError, "out_bits=9"),
    "bipolar result": (lambda: gemm(U8, W, scale=1.0, out_bits=1, out_signed=True), ValueError, "out_bits=1 with out_signed=True"),
    "out_zero out of range": (lambda: gemm(U8, W, scale=1.0, out_bits=4, out_zero=16), ValueError, "out_zero=16.*0 to 15"),
    "relu of no bool": (lambda: gemm(U8, W, scale=1.0, relu="no"), TypeError, "relu='no'"),
    "explain without bits": (lambda: explain(1, 2, 3), TypeError, "bits"),
    "explain a negative size": (lambda: explain(-1, 2, 3, bits=3), ValueError, "M=-1"),
    "explain a float": (lambda: explain(1, 2.5, 3, bits=3), TypeError, "N=2.5"),
    "kernels of 9 bits": (lambda: kernels(bits=9), ValueError, "bits=9"),
    "0 threads": (lambda: ulp.set_num_threads(0), ValueError, "n=0: expected a number of threads from 1 to 1024"),
    "many threads": (lambda: ulp.set_num_threads(1025), ValueError, "n=1025"),
    "half a thread": (lambda: ulp.set_num_threads(0.5), TypeError, "n=0.5"),  # type: ignore[arg-type]  # what is tested
    "unknown isa": (lambda: ulp.set_isa("avx3"), ValueError, "'avx3' is unknown; this build knows .*baseline"),
    "isa of no name": (lambda: ulp.set_isa(2), TypeError, "name=2"),  # type: ignore[arg-type]  # what is tested
    "config mode": (lambda: ulp.show_config("yaml"), ValueError, "mode='yaml'"),  # type: ignore[call-overload]  # what is tested
}


@pytest.mark.parametrize(("call", "kind", "message"), CASES.values(), ids=CASES.keys())
def test_error(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)
    # The message is the whole story: no chain of internal exceptions before it.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_an_error_leaves_out_alone() -> None:
    out = np.full((2, 3), 7, dtype=np.int32)
    with pytest.raises(ValueError, match="outside"):
        ulp.gemm(np.full((2, 4), 8, dtype=np.uint8), W, out=out)
    assert (out == 7).all()


def test_a_kernel_that_cannot_run_says_why() -> None:
    for kernel in ulp.kernels():
        for pair in {(1, 1), (3, 3), (8, 8)} - kernel.pairs:
            a = np.ones((1, 1), dtype=np.uint8)
            with pytest.raises(ValueError, match=kernel.name):
                ulp.gemm(a, a, bits=pair, kernel=kernel.name)


def test_a_kernel_above_the_isa_in_force_says_why() -> None:
    ulp.set_isa("baseline")
    for kernel in ulp.kernels():
        if kernel.isa != "baseline":
            assert not kernel.available
            pair = min(kernel.pairs)
            with pytest.raises(ValueError, match=rf"{kernel.name}.*{kernel.isa}"):
                ulp.gemm(np.ones((1, 1), dtype=np.uint8), np.ones((1, 1), dtype=np.uint8), bits=pair, kernel=kernel.name)
