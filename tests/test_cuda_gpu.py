"""`ulp` on a real GPU, with torch: pairs, edges, streams, graphs, memory. Skipped by name where there is none."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from cuda_modules import why_no_gpu
from reference import random_matrix

import ulp

WHY_NOT = why_no_gpu()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is one")]


@pytest.fixture(scope="module")
def torch() -> Any:
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return module


@pytest.fixture
def rng() -> np.random.Generator:
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")  # noqa: T201  # to repeat a failure
    return np.random.default_rng(seed)


def on(torch: Any, array: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array)).cuda()


@pytest.mark.parametrize("shape", [(1, 256, 4096), (16, 1000, 640), (7, 33, 129), (130, 260, 1100), (513, 384, 256)])
def test_every_pair_like_the_cpu(torch: Any, rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    for a_bits, b_bits, a_signed, b_signed in itertools.product(range(1, 9), range(1, 9), (False, True), (False, True)):
        a, b = random_matrix(rng, (m, k), a_bits, a_signed), random_matrix(rng, (k, n), b_bits, b_signed)
        packed = ulp.pack(b, b_bits)
        result = ulp.gemm(on(torch, a), packed.to("cuda"), bits=(a_bits, b_bits))
        np.testing.assert_array_equal(result.cpu().numpy(), ulp.gemm(a, packed, bits=(a_bits, b_bits)))


def test_every_kernel_with_zero_points_and_epilogue(torch: Any, rng: np.random.Generator) -> None:
    a, b = random_matrix(rng, (70, 512), 4, False), random_matrix(rng, (512, 200), 4, True)
    zeros = rng.integers(-8, 8, 200).astype(np.int32)
    scale, bias = rng.uniform(1e-4, 1e-2, 200).astype(np.float32), rng.integers(-99, 99, 200).astype(np.int32)
    w, there = ulp.pack(b, 4), ulp.pack(on(torch, b), 4)
    for kernel in ulp.kernels(bits=4, device="cuda"):
        for out_bits in (None, 4, 8):
            arguments: dict[str, Any] = {"a_zero": 3, "out_bits": out_bits, "relu": True}
            result = ulp.gemm(
                on(torch, a), there, b_zero=on(torch, zeros), scale=on(torch, scale), bias=on(torch, bias), kernel=str(kernel), **arguments
            )
            np.testing.assert_array_equal(result.cpu().numpy(), ulp.gemm(a, w, b_zero=zeros, scale=scale, bias=bias, **arguments))


def test_packed_on_the_device_as_on_the_host(torch: Any, rng: np.random.Generator) -> None:
    for bits, signed in itertools.product(range(1, 9), (False, True)):
        b = random_matrix(rng, (300, 77), bits, signed)
        there, host = ulp.pack(on(torch, b.T).T, bits), ulp.pack(b, bits).to("cuda")
        np.testing.assert_array_equal(there._packed.to_host(), host._packed.to_host())
        np.testing.assert_array_equal(there._packed.sums(), host._packed.sums())
        np.testing.assert_array_equal(there.unpack(), b)


def test_values_are_checked_where_asked(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    b = torch.ones((64, 48), dtype=torch.int8, device="cuda")
    b[5, 6] = 8
    with pytest.raises(ValueError, match=r"b\[5, 6\] = 8 is outside"):
        ulp.pack(b, 4)
    monkeypatch.setattr("ulp.config.cuda_check", True)
    with pytest.raises(ValueError, match=r"a\[5, 6\] = 8 is outside"):
        ulp.gemm(b, ulp.pack(torch.ones_like(b).T, 4))


def test_current_stream_and_no_synchronisation(torch: Any) -> None:
    w = ulp.pack(torch.ones((4096, 4096), dtype=torch.int8, device="cuda"), 4)
    a = torch.zeros((64, 4096), dtype=torch.uint8, device="cuda")
    ulp.gemm(a, w)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        a.fill_(1)
        result = ulp.gemm(a, w)
        assert not stream.query(), "the call waited for its stream"
    stream.synchronize()
    assert (result == 4096).all()


def test_cuda_graph(torch: Any, rng: np.random.Generator) -> None:
    b = random_matrix(rng, (4096, 512), 4, True)
    w, host = ulp.pack(on(torch, b), 4), ulp.pack(b, 4)
    for m in (1, 16, 200):
        a = torch.zeros((m, 4096), dtype=torch.uint8, device="cuda")
        ulp.gemm(a, w, b_zero=1)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = ulp.gemm(a, w, b_zero=1)
        for _ in range(3):
            values = random_matrix(rng, (m, 4096), 4, False)
            a.copy_(on(torch, values))
            graph.replay()
            np.testing.assert_array_equal(result.cpu().numpy(), ulp.gemm(values, host, b_zero=1))


def test_out_and_batches(torch: Any, rng: np.random.Generator) -> None:
    a, b = random_matrix(rng, (3, 5, 192), 3, False), random_matrix(rng, (192, 40), 3, True)
    w = ulp.pack(on(torch, b), 3)
    want = a.astype(np.int64) @ b
    out = torch.zeros((3, 5, 80), dtype=torch.int32, device="cuda")[..., ::2]
    assert ulp.gemm(on(torch, a), w, out=out) is out
    np.testing.assert_array_equal(out.cpu().numpy(), want)
    np.testing.assert_array_equal(ulp.gemm(on(torch, a).transpose(0, 1)[:, ::2], w).cpu().numpy(), want.transpose(1, 0, 2)[:, ::2])


def test_numpy_with_a_device(torch: Any, rng: np.random.Generator) -> None:
    a, b = random_matrix(rng, (9, 100), 5, True), random_matrix(rng, (100, 30), 2, False)
    np.testing.assert_array_equal(ulp.gemm(a, b, bits=(5, 2), device="cuda"), a.astype(np.int64) @ b)


def test_out_of_memory(torch: Any) -> None:
    free, _ = torch.cuda.mem_get_info()
    n = 2**15
    w = ulp.pack(np.ones((1, n), np.int8), 2, device="cuda")
    a = torch.ones((1, 1), dtype=torch.uint8, device="cuda").expand(int(free // n), 1)
    with pytest.raises(MemoryError):
        ulp.gemm(a, w)
    assert (ulp.gemm(a[:3], w) == 1).all()


def test_cupy(torch: Any, rng: np.random.Generator) -> None:
    cupy = pytest.importorskip("cupy")
    a, b = random_matrix(rng, (9, 100), 4, False), random_matrix(rng, (100, 30), 4, True)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        result = ulp.gemm(cupy.asarray(a), ulp.pack(cupy.asarray(b), 4), scale=0.5)
        stream.synchronize()
    assert isinstance(result, cupy.ndarray)
    np.testing.assert_array_equal(result.get(), ulp.gemm(a, ulp.pack(b, 4), scale=0.5))


def test_converted_models_as_on_the_cpu(torch: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
    x = torch.randn(4, 3, 8, 8)
    low = ulp.torch.convert(model, bits=4, calibrate=x, progress=False)
    with torch.inference_mode():
        expected = low(x)
        low.cuda()
        with torch.cuda.stream(torch.cuda.Stream()):
            found = low(x.cuda())
            torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="move the model or the input"):
            low.cpu()[0](x.cuda())
