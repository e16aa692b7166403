"""`ulp` on a GPU, as Python sees it: arrays of every library, devices, streams, workspaces, errors. On the double and the emulator.

What the kernels compute at every pair, sign and shape is not tested here.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import cuda_double
import numpy as np
import numpy.typing as npt
import pytest
from cuda_arrays import CupyArray, DeviceArray, OtherArray, TorchDtype, TorchTensor, fake_cupy, fake_torch, there
from cuda_modules import NO_EMULATOR, builds, load

import ulp
from ulp import config
from ulp._gpu import arrays, native

gemm: Any = ulp.gemm
pack: Any = ulp.pack

RNG = np.random.default_rng(11)
A = RNG.integers(0, 16, (5, 70)).astype(np.uint8)
B = RNG.integers(-8, 8, (70, 21)).astype(np.int8)
SUMS = A.astype(np.int64) @ B
SCALE = RNG.uniform(0.001, 0.02, 21).astype(np.float32)
BIAS = RNG.integers(-50, 50, 21).astype(np.int32)


@pytest.fixture(autouse=True, params=builds())
def module(request: pytest.FixtureRequest) -> Iterator[Any]:
    loaded = load(request.param)
    native.replace_module(loaded)
    cuda_double.calls.clear()
    yield loaded
    native.replace_module(None)


@pytest.fixture(params=["torch", "cupy", "other"])
def put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes an array of one of the libraries."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    return {"torch": TorchTensor, "cupy": CupyArray, "other": OtherArray}[request.param]


@pytest.mark.skipif("emulated" not in builds(), reason=NO_EMULATOR)
def test_emulated_build_is_tested() -> None:
    assert native.load() is not None


def on_double() -> bool:
    return native.load() is cuda_double


# -------------------------------------------------------------------------------------------------------------------------- gemm


def test_result_is_of_the_callers_type(put: Any) -> None:
    w = ulp.pack(put(B), 4)
    result = gemm(put(A), w)
    assert type(result) is put
    assert result.host.dtype == np.int32
    assert (result.host == SUMS).all()


def test_unpacked_b(put: Any) -> None:
    assert (gemm(put(A), put(B), bits=4).host == SUMS).all()
    assert (gemm(put(A), put(B.astype(np.int64)), bits=4).host == SUMS).all()


def test_bool_is_unsigned(put: Any) -> None:
    ones = RNG.integers(0, 2, (3, 40)).astype(bool)
    assert (gemm(put(ones), put(ones.T), bits=1).host == ones.astype(int) @ ones.T.astype(int)).all()


@pytest.mark.parametrize("shape", [(70,), (1, 70), (2, 3, 70), (0, 70), (2, 0, 70), (1, 1, 1, 70)])
def test_leading_dimensions(put: Any, shape: tuple[int, ...]) -> None:
    a = RNG.integers(0, 16, shape).astype(np.uint8)
    result = gemm(put(a), ulp.pack(put(B), 4))
    assert result.shape == (*shape[:-1], 21)
    assert (result.host == a.astype(np.int64) @ B).all()


@pytest.mark.parametrize("k", [0, 1])
def test_short_k(put: Any, k: int) -> None:
    assert (gemm(put(A[:, :k]), put(B[:k]), bits=4).host == A[:, :k].astype(int) @ B[:k]).all()


def test_no_columns(put: Any) -> None:
    assert gemm(put(A), put(B[:, :0]), bits=4).shape == (5, 0)


VIEWS: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "every other row": lambda x: x[::2],
    "rows of a wider array": lambda x: x[:, 3:60],
    "transposed": np.asfortranarray,
    "every other column": lambda x: x[:, ::2],
    "reversed": lambda x: x[::-1],
    "reversed columns": lambda x: x[:, ::-1],
    "one row, repeated": lambda x: np.broadcast_to(x[:1], (4, x.shape[1])),
    "batch of transposed matrices": lambda x: x[None].repeat(3, 0).transpose(1, 0, 2),
    "batch that folds": lambda x: x.repeat(6, 0).reshape(5, 6, -1)[:, :, 2:],
    "batch that does not fold": lambda x: x.repeat(6, 0).reshape(5, 6, -1)[:, 1:4],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_strides(put: Any, view: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    a = view(A)
    b = np.resize(B, (a.shape[-1], 21))
    assert (gemm(put(a), put(b), bits=4).host == a.astype(np.int64) @ b).all()


@pytest.mark.parametrize("view", [lambda b: b.T.copy().T, lambda b: b[::-1], lambda b: np.tile(b, 2)[:, ::2]])
def test_strides_of_b(put: Any, view: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    assert (gemm(put(A), put(view(B)), bits=4).host == A.astype(int) @ view(B)).all()


@pytest.mark.parametrize("zeros", ["none", "scalars", "columns", "columns on the device"])
def test_zero_points(put: Any, zeros: str) -> None:
    columns = RNG.integers(-8, 8, 21).astype(np.int32)
    b_zero: Any = {"none": 0, "scalars": -3, "columns": columns, "columns on the device": put(columns)}[zeros]
    host = b_zero.host if isinstance(b_zero, DeviceArray) else b_zero
    want = (A.astype(np.int64) - 5) @ (B - np.asarray(host, np.int64))
    assert (gemm(put(A), ulp.pack(put(B), 4), a_zero=5, b_zero=b_zero).host == want).all()


EPILOGUES: dict[str, dict[str, Any]] = {
    "a scale": {"scale": 0.01},
    "a numpy scale": {"scale": np.float64(0.01)},
    "scales": {"scale": SCALE},
    "scales and bias": {"scale": SCALE, "bias": BIAS, "relu": True},
    "float bias": {"scale": SCALE[:1], "bias": BIAS.astype(np.float32)},
    "4 bits": {"scale": SCALE, "bias": BIAS, "out_bits": 4, "relu": True},
    "signed bits with a zero point": {"scale": SCALE, "out_bits": 5, "out_zero": -3, "out_signed": True, "relu": True},
}


@pytest.mark.parametrize("where", ["on the host", "on the device"])
@pytest.mark.parametrize("epilogue", EPILOGUES.values(), ids=EPILOGUES.keys())
def test_epilogue(put: Any, epilogue: dict[str, Any], where: str) -> None:
    moved = {key: put(value) if where == "on the device" and isinstance(value, np.ndarray) else value for key, value in epilogue.items()}
    result = gemm(put(A), ulp.pack(put(B), 4), **moved)
    want: Any = gemm(A, ulp.pack(B, 4), **epilogue)
    assert result.host.dtype == want.dtype
    np.testing.assert_array_equal(result.host, want)


def test_scalars_on_the_device(put: Any) -> None:
    w = ulp.pack(put(B), 4)
    result = gemm(put(A), w, scale=put(np.array(0.01, np.float32)), b_zero=put(np.array(2, np.int32)))
    np.testing.assert_array_equal(result.host, gemm(A, ulp.pack(B, 4), scale=np.float32(0.01), b_zero=2))


@pytest.mark.parametrize("view", [lambda x: x[:, :21], lambda x: x[:, 2:23], lambda x: x[::-1, :21], lambda x: x[:, ::2]])
def test_out(put: Any, view: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    memory = there(np.zeros((5, 42), np.int32))
    out = put(view(memory))
    assert gemm(put(A), ulp.pack(put(B), 4), out=out) is out
    assert (view(memory) == SUMS).all()
    assert np.count_nonzero(memory) == np.count_nonzero(SUMS)


def test_out_may_overlap_the_inputs(put: Any) -> None:
    memory = there(np.zeros((16, 64), np.uint8))
    memory[:, :16] = RNG.integers(0, 16, (16, 16))
    a = memory[:, :16].copy()
    gemm(put(memory[:, :16]), put(np.eye(16, dtype=np.int8)), bits=4, out=put(memory.view(np.int32)))
    assert (memory.view(np.int32) == a).all()


@pytest.mark.parametrize("signed", [False, True])
def test_pairs(put: Any, signed: bool) -> None:
    for a_bits, b_bits in ((1, 1), (8, 2), (3, 8), (2, 5)):
        low = -(2 ** (a_bits - 1)) if signed and a_bits > 1 else 0
        a = RNG.integers(low, low + 2**a_bits, (9, 33)).astype(np.int8 if signed else np.uint8)
        b = RNG.integers(0, 2**b_bits, (33, 18)).astype(np.uint8)
        if signed and a_bits == 1:
            a = 2 * a - 1
        result = gemm(put(a), ulp.pack(put(b), b_bits), bits=(a_bits, b_bits))
        assert (result.host == a.astype(int) @ b.astype(int)).all()


# ------------------------------------------------------------------------------------------------------- streams and allocations


def test_current_stream_and_workspace_of_the_callers_library(put: Any) -> None:
    if not on_double():
        pytest.skip("the double sees the arguments")
    w = ulp.pack(put(B), 4)
    gemm(put(A), w, b_zero=1)
    call = cuda_double.calls[-1]
    assert call["stream"] == {TorchTensor: 21, CupyArray: 11, OtherArray: 7}[put]
    assert call["workspace_bytes"] > 0


@pytest.mark.parametrize("put_on", [TorchTensor, CupyArray])
def test_second_device(put_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on_double():
        pytest.skip("the emulator has one device")
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    w = ulp.pack(put_on(B, 1), 4)
    assert w.device == "cuda:1"
    result = gemm(put_on(A, 1), w, scale=SCALE)
    assert result.index == 1
    assert cuda_double.calls[-1]["stream"] == {TorchTensor: 22, CupyArray: 12}[put_on]


def test_rows_are_read_where_they_lie(put: Any) -> None:
    if not on_double():
        pytest.skip("the double sees the arguments")
    a = there(np.zeros((6, 96), np.uint8))[::2, 16:86]
    a[...] = A[:3]
    gemm(put(a), ulp.pack(put(B), 4))
    call = cuda_double.calls[-1]
    assert (call["a"].pointer, call["a"].row_stride) == (a.ctypes.data, 192)
    gemm(put(A[1]), ulp.pack(put(B), 4))
    assert cuda_double.calls[-1]["a"].row_stride % 16 == 0


def test_an_array_by_dlpack_only(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on_double():
        pytest.skip("a capsule with host memory says that it lies in host memory")

    class Producer:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, stream: int) -> object:
            assert stream == 1
            return "capsule"

    def describe(capsule: object) -> dict[str, Any]:
        assert capsule == "capsule"
        return {"pointer": A.ctypes.data, "shape": A.shape, "strides": (70, 1), "typestr": "|u1", "device": 0}

    monkeypatch.setattr(module, "dlpack", describe, raising=False)
    out = OtherArray(np.zeros((5, 21), np.int32))
    with pytest.raises(TypeError, match="arrays are nothing that ulp can make"):
        gemm(Producer(), ulp.pack(OtherArray(B), 4))
    assert gemm(Producer(), ulp.pack(OtherArray(B), 4), out=out) is out
    assert (out.host == SUMS).all()


def test_dlpack_of_the_host_is_refused_natively(module: Any) -> None:
    if on_double():
        pytest.skip("the double has no DLPack")
    with pytest.raises(ValueError, match="not in a GPU's memory"):
        module.dlpack(A.__dlpack__())
    with pytest.raises(TypeError):
        module.dlpack(3)


# ------------------------------------------------------------------------------------------------------------------ numpy arrays


def test_numpy_with_a_device() -> None:
    for w in (ulp.pack(B, 4), ulp.pack(B, 4, device="cuda"), B):
        result = gemm(A, w, bits=4, device="cuda")
        assert type(result) is np.ndarray
        assert (result == SUMS).all()
    out = np.zeros((5, 42), np.float32)[:, ::2]
    assert gemm(A.tolist(), ulp.pack(B, 4), scale=SCALE, bias=BIAS, out=out, device="cuda:0") is out
    np.testing.assert_array_equal(out, gemm(A, ulp.pack(B, 4), scale=SCALE, bias=BIAS))
    assert gemm(A[0], B, bits=4, device="cuda").shape == (21,)
    assert gemm(A, B, bits=4, device="cpu").dtype == np.int32


def test_host_values_are_checked() -> None:
    with pytest.raises(ValueError, match=r"a\[1, 2\] = 16 is outside 0\.\.15"):
        gemm(np.pad([[0], [0]], ((0, 0), (2, 0))) + np.array([[0] * 3, [0, 0, 16]]), np.ones((3, 2), np.int8), bits=4, device="cuda")
    with pytest.raises(ValueError, match=r"a\[0\] = 0 is outside -1 or \+1"):
        gemm(np.zeros(3, np.int8), np.ones((3, 2), np.int8), bits=1, device="cuda")


# ----------------------------------------------------------------------------------------------------------------------- weights


def test_packed_matrix_there_and_back() -> None:
    w = ulp.pack(B, 4)
    there = w.to("cuda")
    assert repr(there) == "CudaPackedMatrix(shape=(70, 21), bits=4, signed, nbytes=2048, device='cuda:0')"
    assert (there.shape, there.ndim, there.bits, there.signed, there.dtype, there.device) == ((70, 21), 2, 4, True, np.int8, "cuda:0")
    assert there.nbytes == 128 * 32 // 2
    assert (there.unpack() == B).all()
    assert there.to("cpu") == w
    assert w.to("cpu") is w
    assert there.to("cuda") is there
    assert there.to("cuda:0") is there
    assert copy.copy(there) is there
    assert copy.deepcopy(there) is there
    again = pickle.loads(pickle.dumps(there))
    assert again.to("cpu") == w
    assert again.device == "cuda:0"
    with pytest.raises(AttributeError, match="immutable"):
        there.bits = 3
    with pytest.raises(AttributeError, match="immutable"):
        del there.bits
    with pytest.raises(TypeError, match=r"ulp\.pack"):
        ulp.CudaPackedMatrix(w)


def test_pack_checks_values_on_the_device(put: Any) -> None:
    b = B.copy()
    b[3, 4] = 9
    with pytest.raises(ValueError, match=r"b\[3, 4\] = 9 is outside -8\.\.7 \(signed 4-bit\)") as caught:
        ulp.pack(put(b), 4)
    assert caught.value.__suppress_context__
    with pytest.raises(ValueError, match=r"b\[3, 4\] = 9 is outside"):
        ulp.pack(put(b.astype(np.int32)), 4)
    with pytest.raises(ValueError, match=r"b\[3, 4\] = 9 is outside"):
        ulp.pack(b, 4, device="cuda")


def test_pack_of_unsigned_and_bipolar(put: Any) -> None:
    for b, bits in ((np.abs(B).clip(0, 7).astype(np.uint8), 3), (np.where(B < 0, -1, 1).astype(np.int8), 1)):
        assert (ulp.pack(put(b), bits).unpack() == b).all()


# ---------------------------------------------------------------------------------------------------- ULP_CUDA_CHECK, ULP_VERBOSE


def test_values_are_checked_if_asked_for(put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a = A.copy()
    a[2, 5] = 16
    w = ulp.pack(put(B), 4)
    monkeypatch.setattr(config, "cuda_check", True)
    assert (gemm(put(A), w, scale=put(SCALE), bias=put(BIAS)).host == gemm(A, ulp.pack(B, 4), scale=SCALE, bias=BIAS)).all()
    with pytest.raises(ValueError, match=r"a\[2, 5\] = 16 is outside 0\.\.15"):
        gemm(put(a), w)
    with pytest.raises(ValueError, match=r"a\[1, 0, 5\] = 16 is outside 0\.\.15"):
        gemm(put(a[[0, 2]][:, None]), w)
    with pytest.raises(ValueError, match=r"scale holds nan at \[1\]"):
        gemm(put(A), w, scale=put(np.where(np.arange(21) == 1, np.nan, SCALE).astype(np.float32)))
    with pytest.raises(ValueError, match=r"bias holds 2147483647 at \[0\]"):
        gemm(put(A), w, scale=1.0, bias=put(np.full(21, 2**31 - 1, np.int32)))
    with pytest.raises(ValueError, match=r"b_zero holds values outside -8\.\.7"):
        gemm(put(A), w, b_zero=put(np.full(21, 8, np.int32)))


def test_verbose(put: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    w = ulp.pack(put(B), 4)
    monkeypatch.setattr(config, "verbose", True)
    gemm(put(A), w, scale=0.5)
    assert " MxNxK=5x21x70 a=u4 b=s4 -> float32 on cuda:0\n" in capfd.readouterr().err


# -------------------------------------------------------------------------------------------------------- explain, kernels, config


def test_explain_and_kernels() -> None:
    names: Any = ulp.kernels(device="cuda")
    assert names
    assert all(isinstance(name, str) for name in names)
    assert set(names) >= set(ulp.kernels(bits=(8, 4), device="cuda:0"))
    why: Any = ulp.explain(64, 4096, 4096, bits=4, device="cuda")
    assert why.kernel in names
    assert why.device == "cuda:0"
    assert str(why) == repr(why) == why.text
    assert why.splits >= 1
    assert ulp.explain(1, 2, 3, bits=4, device="cpu").kernel in {k.name for k in ulp.kernels()}
    assert isinstance(ulp.kernels(device="cpu"), ulp.KernelTable)


def test_every_kernel_by_name(put: Any) -> None:
    w = ulp.pack(put(B), 4)
    a = there(np.zeros((5, 80), np.uint8))[:, :70]
    a[...] = A
    for kernel in ulp.kernels(bits=4, device="cuda"):
        assert (gemm(put(a), w, kernel=str(kernel)).host == SUMS).all()


def test_show_config() -> None:
    facts = ulp.show_config("dict")
    assert facts["CUDA module"].startswith("CUDA 13.0, architectures ")
    assert facts["CUDA devices"].startswith("0: ")
    assert "sm_90, 132 SMs" in facts["CUDA devices"]


# ------------------------------------------------------------------------------------------------------------------------ errors


def errors(put: Any) -> dict[str, tuple[Callable[[], object], type[Exception], str]]:
    a, b = put(A), put(B)
    w = ulp.pack(b, 4)
    return {
        "float a": (lambda: gemm(put(np.zeros((2, 70), np.float16)), w), TypeError, "a has dtype float16.*quantize first"),
        "complex a": (lambda: gemm(put(np.zeros((2, 70), complex)), w), TypeError, "a has dtype complex128: expected uint8"),
        "int64 a": (lambda: gemm(put(A.astype(np.int64)), w), TypeError, "a has dtype int64: on a GPU expected uint8 or int8"),
        "float b": (lambda: ulp.pack(put(np.zeros((2, 3), np.float32)), 3), TypeError, "b has dtype float32.*quantize first"),
        "vector b": (lambda: ulp.pack(put(B[0]), 4), ValueError, r"b has shape \(21,\): expected two dimensions"),
        "packed a": (lambda: gemm(w, w), TypeError, "a is a CudaPackedMatrix: only b can be packed"),
        "scalar a": (lambda: gemm(put(np.array(1, np.uint8)), w), ValueError, "a is a scalar"),
        "a of another K": (lambda: gemm(put(A[:, :5]), w), ValueError, r"a has K = 5 \(shape \(5, 5\)\) but b has K = 70"),
        "no bits": (lambda: gemm(a, b), TypeError, "bits is needed"),
        "9 bits": (lambda: ulp.pack(b, 9), ValueError, "bits=9"),
        "contradicting bits": (lambda: gemm(a, w, bits=(4, 3)), ValueError, r"pass bits=\(4, 4\)"),
        "b on the CPU": (lambda: gemm(a, B, bits=4), ValueError, 'b is on the CPU and a on cuda:0: move b there, or pass device="cuda:0"'),
        "packed b on the CPU": (lambda: gemm(a, ulp.pack(B, 4)), ValueError, "b is on the CPU and a on cuda:0"),
        "a on the CPU": (lambda: gemm(A, w), ValueError, "a is on the CPU and b on cuda:0"),
        "device='cpu'": (lambda: gemm(a, w, device="cpu"), ValueError, "a is on cuda:0, not on the CPU"),
        "device of a number": (
            lambda: gemm(A, B, bits=4, device=0),
            TypeError,
            r"device=0: expected \"cpu\", \"cuda\" or \"cuda:<number>\"",
        ),
        "device of another name": (lambda: pack(B, 4, device="rocm"), ValueError, "device='rocm': expected"),
        "device that is not there": (lambda: pack(B, 4, device="cuda:9"), ValueError, r"device='cuda:9': this machine has \d CUDA device"),
        "device that is not there, explained": (lambda: ulp.explain(1, 1, 1, bits=1, device="cuda:9"), ValueError, "cuda:9"),
        "unknown kernel": (lambda: gemm(a, w, kernel="mul9"), ValueError, "mul9.*wgmma_128x64"),
        "kernel of no name": (lambda: gemm(a, w, kernel=3), TypeError, "kernel=3: expected the name"),
        "kernel that cannot run": (lambda: gemm(a, w, kernel="mma_s4_64x64"), ValueError, "mma_s4_64x64.*sm_90"),
        "float a_zero": (lambda: gemm(a, w, a_zero=0.5), TypeError, "a_zero=0.5.*not float"),
        "sum past int32": (lambda: gemm(a, w, a_zero=2**31 - 1), ValueError, r"K = 70 could overflow int32: \|a - a_zero\|"),
        "sum past int32 by columns": (lambda: gemm(a, w, b_zero=[2**30] * 21), ValueError, "K = 70 could overflow int32"),
        "b_zero of another dtype": (lambda: gemm(a, w, b_zero=put(BIAS.astype(np.int8))), TypeError, "b_zero has dtype int8: .* int32"),
        "b_zero of another length": (lambda: gemm(a, w, b_zero=put(BIAS[:2])), ValueError, r"b_zero has shape \(2,\).*\(21,\)"),
        "float64 scale": (lambda: gemm(a, w, scale=put(SCALE.astype(float))), TypeError, "scale has dtype float64: .* float32"),
        "scale of another length": (lambda: gemm(a, w, scale=put(SCALE[:2])), ValueError, r"scale has shape \(2,\)"),
        "nan scale": (lambda: gemm(a, w, scale=[np.nan] * 21), ValueError, "scale .* not finite"),
        "bias without scale": (lambda: gemm(a, w, bias=put(BIAS)), TypeError, "pass scale="),
        "float bias with out_bits": (
            lambda: gemm(a, w, scale=1.0, bias=put(SCALE), out_bits=4),
            TypeError,
            "bias has dtype float32.*quantize it",
        ),
        "bias past int32": (lambda: gemm(a, w, scale=1.0, bias=[2**31 - 1] * 21), ValueError, r"bias holds 2147483647 at \[0\]"),
        "bias of another length": (lambda: gemm(a, w, scale=1.0, bias=put(BIAS[:3])), ValueError, r"bias has shape \(3,\)"),
        "9 out_bits": (lambda: gemm(a, w, scale=1.0, out_bits=9), ValueError, "out_bits=9"),
        "numpy out": (
            lambda: gemm(a, w, out=np.zeros((5, 21), np.int32)),
            TypeError,
            "out of type ndarray: expected an array of a's library",
        ),
        "out of another shape": (lambda: gemm(a, w, out=put(np.zeros((21, 5), np.int32))), ValueError, r"out has shape \(21, 5\)"),
        "out of another dtype": (lambda: gemm(a, w, out=put(np.zeros((5, 21), np.float32))), TypeError, "out has dtype float32: .* int32"),
        "device out for numpy": (
            lambda: gemm(A, w, device="cuda", out=put(np.zeros((5, 21), np.int32))),
            TypeError,
            "expected a numpy array",
        ),
    }


def test_errors(put: Any) -> None:
    for name, (call, kind, message) in errors(put).items():
        with pytest.raises(kind, match=f"(?s){message}") as caught:
            call()
        assert type(caught.value) is kind, name
        # The message says everything: no internal exceptions are chained to it.
        assert caught.value.__cause__ is None, name
        assert caught.value.__suppress_context__ or caught.value.__context__ is None, name


def test_operands_on_two_devices() -> None:
    if not on_double():
        pytest.skip("the emulator has one device")
    a, w = OtherArray(A), ulp.pack(B, 4, device="cuda:1")
    for device in (None, "cuda"):
        with pytest.raises(ValueError, match="b is on cuda:1, not on cuda:0: move it there first"):
            gemm(a, w, device=device)
    with pytest.raises(ValueError, match="a is on cuda:0, not on cuda:1"):
        gemm(a, w, device="cuda:1")
    with pytest.raises(ValueError, match="scale is on cuda:1, not on cuda:0"):
        gemm(a, w.to("cuda:0"), scale=OtherArray(SCALE, 1))
    with pytest.raises(ValueError, match="out is on cuda:1, not on cuda:0"):
        gemm(a, w.to("cuda:0"), out=OtherArray(np.zeros((5, 21), np.int32), 1))
    assert w.to("cuda:0").device == "cuda:0"
    assert ulp.pack(B, 4).to("cuda:1").device == "cuda:1"


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    w = ulp.pack(np.ones((1, 2**15), np.int8), 4, device="cuda")
    with pytest.raises(MemoryError, match="CUDA out of memory") as caught:
        gemm(TorchTensor(np.broadcast_to(np.uint8(1), (2**14, 1))), w)
    assert caught.value.__suppress_context__
    if on_double():
        with pytest.raises(MemoryError, match="allocating"):
            gemm(np.ones((2**14, 1), np.uint8), w, device="cuda")


def test_torch_arrays_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    sparse = TorchTensor(A)
    sparse.layout = "sparse_csr"
    with pytest.raises(TypeError, match=r"layout sparse_csr.*to_dense"):
        gemm(sparse, ulp.pack(B, 4, device="cuda"))
    half = TorchTensor(A.view(np.int16))
    half._dtype = TorchDtype("bfloat16")
    with pytest.raises(TypeError, match=r"a has dtype bfloat16.*quantize first"):
        gemm(half, ulp.pack(B, 4, device="cuda"))


def test_what_the_facade_takes_for_torch_is_in_torch() -> None:
    torch = pytest.importorskip("torch")
    library: Any = arrays._Torch(torch, torch.device("cpu"))
    tensor = library.upload(BIAS.reshape(3, 7))
    view = library.view(tensor.T)
    assert (view.pointer, view.shape, view.strides, view.dtype) == (tensor.data_ptr(), (7, 3), (1, 7), "int32")
    assert library.contiguous(tensor.T).stride() == (3, 1)
    assert (library.broadcast(tensor[0, 0], 5).numpy() == BIAS[0]).all()
    target = library.empty((7, 3), "int32")
    library.assign(target, tensor.T)
    assert (target.numpy() == BIAS.reshape(3, 7).T).all()
    address, owner = library.workspace(1000)
    assert (address, owner.numel()) == (owner.data_ptr(), 1000)
    assert library.view(torch.empty(1, dtype=torch.bfloat16)).dtype == "bfloat16"
    with pytest.raises(TypeError, match="to_dense"):
        library.view(torch.eye(2).to_sparse())
    with pytest.raises(MemoryError, match="full"):
        library._allocate(lambda: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("full")))
    assert not arrays.on_gpu(tensor)
    assert arrays.on_gpu(torch.empty(1, device="meta")) is False


def test_libraries_that_cannot_allocate(monkeypatch: pytest.MonkeyPatch) -> None:
    w = ulp.pack(B, 4, device="cuda")
    a = OtherArray(A)
    monkeypatch.delattr(OtherArray, "__array_namespace__")
    with pytest.raises(TypeError, match="cuda_arrays arrays are nothing that ulp can make or write: pass out="):
        gemm(a, w)
    with pytest.raises(TypeError, match="pass arrays on the device"):
        gemm(a, w, scale=SCALE, out=OtherArray(np.zeros((5, 21), np.float32)))
    out = OtherArray(np.zeros((5, 21), np.int32))
    assert gemm(a, w, b_zero=1, out=out) is out
    assert (out.host == A.astype(int) @ (B - 1)).all()
    monkeypatch.setattr(OtherArray, "__array_namespace__", lambda _: SimpleNamespace(), raising=False)
    with pytest.raises(TypeError, match="has no ascontiguousarray: pass a C-contiguous array"):
        gemm(OtherArray(np.asfortranarray(A)), w, out=out)


def test_masked_arrays_are_refused() -> None:
    class Masked(OtherArray):
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return {**super().__cuda_array_interface__, "mask": object()}

    with pytest.raises(TypeError, match="masked array"):
        gemm(Masked(A), ulp.pack(B, 4, device="cuda"))
