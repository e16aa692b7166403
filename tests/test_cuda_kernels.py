"""The CUDA kernels themselves, on the emulated GPU: every pair of bits, every kernel, every architecture, at the edges.

The emulator (tools/cuda_emulator) runs their source on the CPU, thread by thread in a random order, with every asynchronous copy as late as
the rules allow, and fails on races, unwritten or foreign memory, and instructions that an architecture lacks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cuda_calls import Cuda, Epilogue, on_cpu
from cuda_modules import NO_EMULATOR, load_emulated
from reference import ALL_PAIRS, SIGNS, Array, assert_exact, dtype, interval, matmul, random_matrix

WGMMA = ["wgmma_128x256", "wgmma_128x128", "wgmma_128x64", "wgmma_128x32", "wgmma_128x16"]
S4 = ["mma_s4_128x128", "mma_s4_64x64", "mma_s4_64x16"]
S8 = ["mma_s8_128x128", "mma_s8_64x64", "mma_s8_64x16"]
WGMMA_B1 = ["wgmma_b1_128x256", "wgmma_b1_128x128", "wgmma_b1_128x64"]
B1 = ["mma_b1_128x128", "mma_b1_64x64", "mma_b1_64x16"]
PLANES = WGMMA_B1 + B1
# (architecture, kernel): every kernel on one architecture at least, and all architectures whose instructions differ.
ON = (
    [(90, kernel) for kernel in WGMMA] + [(arch, kernel) for arch in (75, 80) for kernel in S4 + S8] + [(120, kernel) for kernel in S8[-1:]]
)
ON_PLANES = [(90, kernel) for kernel in WGMMA_B1 + B1[-1:]] + [(80, kernel) for kernel in B1]
INT32 = 2**31 - 1


class Traffic(ctypes.Structure):
    """Requests of warps to shared memory, the wavefronts they took, and those they would take without bank conflicts."""

    _fields_ = [("requests", ctypes.c_uint64), ("wavefronts", ctypes.c_uint64), ("ideal", ctypes.c_uint64)]


class Emulator:
    """The emulated machine's controls."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.library.ulp_emulator_configure.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64]
        self.library.ulp_emulator_seed.argtypes = [ctypes.c_uint64]
        self.library.ulp_emulator_traffic.restype = Traffic

    def configure(self, arch: int, sms: int = 4) -> None:
        assert self.library.ulp_emulator_configure(arch, sms, 2**32) == 1

    def seed(self, seed: int) -> None:
        self.library.ulp_emulator_seed(seed)

    def reset(self) -> None:
        self.library.ulp_emulator_reset()

    def traffic(self, what: int) -> Traffic:
        found = self.library.ulp_emulator_traffic(what)
        assert isinstance(found, Traffic)
        return found


@pytest.fixture(scope="module")
def cuda() -> Cuda:
    native = load_emulated()
    if native is None:
        pytest.skip(NO_EMULATOR)
    return Cuda(native)


@pytest.fixture
def emulator(cuda: Cuda) -> Iterator[Emulator]:
    machine = Emulator(cuda.native.__file__)
    machine.configure(90)
    machine.seed(1)
    machine.reset()
    yield machine
    machine.configure(90, 132)  # as it was, for whatever runs next in this process


def operands(seed: int, m: int, n: int, k: int, bits: tuple[int, int], signs: tuple[bool, bool]) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return random_matrix(rng, (m, k), bits[0], signs[0]), random_matrix(rng, (k, n), bits[1], signs[1])


@pytest.mark.parametrize(("a_bits", "b_bits"), ALL_PAIRS)
def test_every_pair_of_bits_and_signs(cuda: Cuda, emulator: Emulator, a_bits: int, b_bits: int) -> None:
    bits = (a_bits, b_bits)
    for signs in SIGNS:
        a, b = operands(8 * a_bits + b_bits, 11, 37, 150, bits, signs)
        expected = matmul(a, b)
        for arch, kernel in ((90, "wgmma_128x16"), (75, "mma_s4_64x16"), (80, "mma_s4_64x16"), (80, "mma_s8_64x16")):
            if cuda.runs(kernel, bits, arch):
                emulator.configure(arch)
                assert_exact(cuda.gemm(a, b, bits, kernel), expected, f"{kernel} on sm_{arch}, A{a_bits}W{b_bits}, signed {signs}")


@pytest.mark.parametrize(("a_bits", "b_bits"), [pair for pair in ALL_PAIRS if pair[1] <= 4])
def test_every_pair_of_bits_and_signs_by_planes(cuda: Cuda, emulator: Emulator, a_bits: int, b_bits: int) -> None:
    # Those that the planes are for on both units, the others on one.
    on = [(90, "wgmma_b1_128x64"), (86, "mma_b1_64x16")] if a_bits * b_bits <= 4 else [(89, "mma_b1_64x16")]
    for signs in SIGNS:
        a, b = operands(8 * a_bits + b_bits, 11, 37, 150, (a_bits, b_bits), signs)
        for arch, kernel in on:
            emulator.configure(arch)
            what = f"{kernel} on sm_{arch}, A{a_bits}W{b_bits}, signed {signs}"
            assert_exact(cuda.gemm(a, b, (a_bits, b_bits), kernel), matmul(a, b), what)
            assert_exact(cuda.gemm(a, b, (a_bits, b_bits), kernel, a_zero=3, b_zero=-2), matmul(a, b, 3, -2), f"{what}, zero points")


SHAPES = [(1, 1, 1), (1, 300, 128), (7, 16, 127), (17, 15, 129), (65, 144, 300), (130, 260, 130), (257, 129, 64), (8, 8, 0)]


@pytest.mark.parametrize(("arch", "kernel"), ON)
def test_every_kernel_at_the_edges_of_its_tiles(cuda: Cuda, emulator: Emulator, arch: int, kernel: str) -> None:
    emulator.configure(arch)
    widths = [(4, 4), (3, 1), (2, 3), (4, 2)] if kernel in S4 else [(8, 8), (8, 1), (3, 5), (4, 4), (7, 6), (8, 3), (2, 7), (1, 2)]
    for index, (m, n, k) in enumerate(SHAPES):
        bits = widths[index % len(widths)]
        signs = SIGNS[index // 2 % 4]
        if k == 0 and kernel in WGMMA:
            with pytest.raises(ValueError, match="K is 0"):
                cuda.gemm(np.zeros((m, 0), np.uint8), np.zeros((0, n), np.uint8), bits, kernel)
            continue
        a, b = operands(index, m, n, k, bits, signs)
        expected = matmul(a, b, 1, -2)
        assert_exact(cuda.gemm(a, b, bits, kernel, a_zero=1, b_zero=-2), expected, f"{kernel} {m}x{n}x{k} {bits} {signs}")


# K around the 1024 of a step, and several steps with a tail.
PLANE_SHAPES = [(1, 1, 1), (1, 300, 128), (17, 15, 129), (130, 140, 300), (257, 17, 1023), (9, 144, 1025), (65, 20, 2300), (8, 8, 0)]


@pytest.mark.parametrize(("arch", "kernel"), ON_PLANES)
def test_every_kernel_of_planes_at_the_edges_of_its_tiles(cuda: Cuda, emulator: Emulator, arch: int, kernel: str) -> None:
    emulator.configure(arch)
    for index, (m, n, k) in enumerate(PLANE_SHAPES):
        bits = [(1, 1), (2, 2), (1, 3), (4, 1), (1, 4), (2, 1)][index % 6]
        if k == 0 and kernel in WGMMA_B1:
            with pytest.raises(ValueError, match="K is 0"):
                cuda.gemm(np.zeros((m, 0), np.uint8), np.zeros((0, n), np.uint8), bits, kernel)
            continue
        a, b = operands(index, m, n, k, bits, SIGNS[index % 4])
        expected = matmul(a, b, 1, -2)
        assert_exact(cuda.gemm(a, b, bits, kernel, a_zero=1, b_zero=-2), expected, f"{kernel} {m}x{n}x{k} {bits} {SIGNS[index % 4]}")


def test_planes_in_parts_of_k_and_several_tiles_per_block(cuda: Cuda, emulator: Emulator) -> None:
    # One multiprocessor computes all tiles, in pairs of blocks where the tile is wide; parts of K meet in a cluster and in slices.
    for arch, m, n, k, kernel in (
        (90, 70, 260, 200, "wgmma_b1_128x64"),
        (90, 130, 260, 200, "wgmma_b1_128x128"),
        (90, 10, 140, 2100, "wgmma_b1_128x64/2"),
        (80, 20, 70, 2100, "mma_b1_64x16/3"),
    ):
        emulator.configure(arch, 1)
        a, b = operands(k, m, n, k, (2, 2), (False, True))
        assert_exact(cuda.gemm(a, b, (2, 2), kernel), matmul(a, b), kernel)


@pytest.mark.parametrize(("arch", "kernel"), [(90, "wgmma_b1_128x64"), (80, "mma_b1_64x16")])
def test_planes_at_the_edge_of_the_accumulators(cuda: Cuda, emulator: Emulator, arch: int, kernel: str) -> None:
    # K (2^8 - 1) (2^4 - 1) must fit in 31 bits, in steps of 1024; longer K is split.
    longest = (2**31 - 1) // (255 * 15) // 1024 * 1024
    pick = cuda.native.pick
    assert pick(1, 1, longest, 8, False, 4, arch, 1, True, f"{kernel}/1")["splits"] == 1
    assert pick(1, 1, longest + 1, 8, False, 4, arch, 1, True, kernel)["splits"] >= 2
    with pytest.raises(ValueError, match="in that many parts"):
        pick(1, 1, longest + 1, 8, False, 4, arch, 1, True, f"{kernel}/1")
    # All bits set, in every sign.
    emulator.configure(arch)
    for bits in ((8, 4), (1, 1)):
        for signs in SIGNS:
            a = np.full((1, 1300), interval(bits[0], signs[0])[0 if signs[0] else 1], dtype(signs[0]))
            b = np.full((1300, 2), interval(bits[1], signs[1])[0 if signs[1] else 1], dtype(signs[1]))
            assert_exact(cuda.gemm(a, b, bits, kernel), matmul(a, b), f"{kernel} {bits} {signs}")


@pytest.mark.parametrize("sms", [1, 3, 132])
def test_tiles_splits_and_clusters_however_many_multiprocessors(cuda: Cuda, emulator: Emulator, sms: int) -> None:
    # Few multiprocessors: thread blocks compute several tiles each, in pairs and alone. Many: K is split, in clusters and in slices.
    seen = set()
    for arch, m, n, k in ((90, 300, 600, 128), (90, 10, 140, 2000), (80, 20, 70, 1500)):
        emulator.configure(arch, sms)
        a, b = operands(k, m, n, k, (5, 4), (False, True))
        expected = matmul(a, b)
        for kernel in cuda.native.kernels():
            if kernel not in PLANES and cuda.runs(kernel, (5, 4), arch):
                choice = cuda.native.pick(m, n, k, 5, False, 4, arch, sms, True, kernel)
                seen.add((kernel.split("_")[0], choice["splits"] > 1))
                assert_exact(cuda.gemm(a, b, (5, 4), kernel), expected, choice["text"])
    assert sms < 132 or seen == {("wgmma", False), ("wgmma", True), ("mma", False), ("mma", True)}


@pytest.mark.parametrize(("arch", "kernel"), [(90, "wgmma_128x16"), (80, "mma_s8_64x16"), (75, "mma_s4_64x16")])
def test_sums_at_the_edge_of_the_accumulators(cuda: Cuda, emulator: Emulator, arch: int, kernel: str) -> None:
    # The accumulator holds 2^(8 - bits) times the sum, so K must be split although the sum itself fits. mma_s8 is the same code on every
    # architecture, so one of them is enough.
    emulator.configure(arch)
    widths = [(4, 4), (4, 1)] if kernel in S4 else [(8, 8), (8, 4), (8, 1)]
    for bits in widths:
        for k in (65536, 65536 + 128, 65793):
            for a_value, b_value in (
                (interval(bits[0], False)[1], interval(bits[1], True)[0]),
                (interval(bits[0], True)[0], interval(bits[1], True)[0]),
            ):
                a = np.full((1, k), a_value, dtype(a_value < 0))
                b = np.full((k, 2), b_value, np.int8)
                exact = k * a_value * b_value
                assert abs(exact) <= INT32
                assert_exact(cuda.gemm(a, b, bits, kernel), np.full((1, 2), exact, np.int64), f"{kernel} {bits} K={k}")


def test_a_long_k_is_split_until_it_fits(cuda: Cuda, emulator: Emulator) -> None:
    k = 140_000  # eight parts of a cluster would be 524288
    a = np.full((1, k), 255, np.uint8)
    b = np.full((k, 1), -8, np.int8)
    assert cuda.gemm(a, b, (8, 4), "wgmma_128x16")[0, 0] == -8 * 255 * k
    with pytest.raises(ValueError, match="K is too long for its accumulators"):
        cuda.native.pick(1, 1, 600_000, 8, False, 4, 90, 132, True, "wgmma_128x16")
    assert cuda.native.pick(1, 1, 2**24, 1, False, 1, 90, 132, True)["splits"] >= 2**24 // 65536


EPILOGUES = [
    Epilogue(scale=0.0123),
    Epilogue(scale=0.5, bias=np.linspace(-3, 3, 70, dtype=np.float32), relu=True),
    Epilogue(scale=np.linspace(0.001, 0.1, 70, dtype=np.float32), bias=np.arange(-35, 35, dtype=np.int32) * 17),
    Epilogue(scale=0.004, out_bits=4),
    Epilogue(scale=0.5, out_bits=8, out_zero=3, bias=np.arange(70, dtype=np.int32), relu=True),  # halves: rounded to even
    Epilogue(scale=np.linspace(0.001, 0.9, 70, dtype=np.float32), out_bits=8, out_signed=True, out_zero=-5),
    Epilogue(scale=1e30, out_bits=2),
]


@pytest.mark.parametrize("number", range(len(EPILOGUES)))
@pytest.mark.parametrize(
    ("arch", "kernel"),
    [
        (90, "wgmma_128x16"),
        (90, "wgmma_128x128"),
        (80, "mma_s4_64x16"),
        (75, "mma_s8_64x64"),
        (90, "wgmma_b1_128x64"),
        (80, "mma_b1_64x16"),
    ],
)
def test_results_are_finished_as_on_the_cpu(cuda: Cuda, emulator: Emulator, arch: int, kernel: str, number: int) -> None:
    emulator.configure(arch)
    rng = np.random.default_rng(number)
    zeros = rng.integers(-3, 4, size=70).astype(np.int32) if number % 2 else 2
    a, b = operands(number, 21, 70, 200, (4, 3), (bool(number % 3), number % 2 == 0))
    expected = on_cpu(a, b, (4, 3), 1, zeros, EPILOGUES[number])
    actual = cuda.gemm(a, b, (4, 3), kernel, a_zero=1, b_zero=zeros, epilogue=EPILOGUES[number])
    assert actual.dtype == expected.dtype
    assert_exact(actual.view(np.uint8), expected.view(np.uint8), f"{kernel}, {EPILOGUES[number]}")  # bit for bit, floats too


def test_a_split_product_is_finished_as_on_the_cpu(cuda: Cuda, emulator: Emulator) -> None:
    epilogue = Epilogue(scale=0.003, out_bits=4, out_zero=7)
    for arch, kernel in ((90, "wgmma_128x32"), (80, "mma_s8_64x16"), (90, "wgmma_b1_128x64"), (80, "mma_b1_64x16")):
        emulator.configure(arch, 132)
        a, b = operands(5, 20, 69, 3000, (4, 4), (False, False))
        assert cuda.native.pick(20, 69, 3000, 4, False, 4, arch, 132, True, kernel, b_signed=False)["splits"] > 1
        assert_exact(cuda.gemm(a, b, (4, 4), kernel, a_zero=3, epilogue=epilogue), on_cpu(a, b, (4, 4), 3, 0, epilogue), kernel)


@pytest.mark.parametrize("kernel", [*S8, "mma_b1_64x16"])
def test_activations_anywhere(cuda: Cuda, emulator: Emulator, kernel: str) -> None:
    # Rows at odd addresses are gathered byte by byte; bytes between the rows do not enter the result.
    emulator.configure(80)
    for offset, stride in ((0, 133), (1, 150), (5, 160), (16, 144), (3, 133)):
        a, b = operands(offset, 9, 20, 133, (8, 4), (True, True))
        assert_exact(
            cuda.gemm(a, b, (8, 4), kernel, offset=offset, row_stride=stride, b_zero=1), matmul(a, b, 0, 1), f"{kernel} {offset} {stride}"
        )
    with pytest.raises(ValueError, match="multiples of 16 bytes"):
        cuda.native.pick(9, 20, 133, 8, True, 4, 90, 132, False, "wgmma_128x16")


@pytest.mark.parametrize(("arch", "kernel"), ON + ON_PLANES)
def test_any_order_of_threads_and_copies(cuda: Cuda, emulator: Emulator, arch: int, kernel: str) -> None:
    bits, k = ((2, 1), 2200) if kernel in PLANES else ((4, 3), 700)
    a, b = operands(3, 70, 200, k, bits, (False, True))
    expected = matmul(a, b)
    for seed in range(3 if kernel in PLANES else 6):
        emulator.configure(arch, 3 if seed % 2 else 40)
        emulator.seed(seed)
        assert_exact(cuda.gemm(a, b, bits, kernel), expected, f"{kernel}, seed {seed}")


@pytest.mark.parametrize(("arch", "kernel"), ON + ON_PLANES)
@pytest.mark.parametrize("b_bits", [1, 2, 3, 4, 8])
def test_shared_memory_is_read_and_written_without_bank_conflicts(
    cuda: Cuda, emulator: Emulator, arch: int, kernel: str, b_bits: int
) -> None:
    if not cuda.runs(kernel, (4, b_bits), arch):
        pytest.skip(f"{kernel} does not run {b_bits}-bit weights")
    emulator.configure(arch)
    a, b = operands(b_bits, 64, 128, 256, (4, b_bits), (False, True))
    emulator.reset()
    cuda.gemm(a, b, (4, b_bits), kernel)
    for what in range(3):  # loads, stores, ldmatrix
        found = emulator.traffic(what)
        assert found.wavefronts == found.ideal, f"kind {what}: {found.wavefronts} wavefronts, {found.ideal} would do"


# ------------------------------------------------------------------------------------------------------------------------ packing


def stored(b: Array, bits: int) -> npt.NDArray[np.int64]:
    """The stored codes of weights by layout.h: `bits` bits each."""
    values = b.astype(np.int64) - (0 if b.dtype == np.int8 else 2 ** (bits - 1))
    codes: npt.NDArray[np.int64] = (b < 0).astype(np.int64) if bits == 1 and b.dtype == np.int8 else values & (2**bits - 1)
    return codes


def packed_by_the_picture(b: Array, bits: int) -> Array:
    """The layout as the comment in csrc/cuda/layout.h says it, one field at a time."""
    k, n = b.shape
    blocks, strips = -(-k // 128), -(-n // 16)
    codes = np.zeros((blocks * 128, strips * 16), np.int64)
    codes[:k, :n] = stored(b, bits)
    planes = {8: [(8, 16)]}.get(bits, [(width, 2 * width) for width in (4, 2, 1) if bits & width])
    out = []
    for panel in range(0, strips, 8):
        for block in range(blocks):
            for strip in range(panel, min(panel + 8, strips)):
                part = codes[block * 128 : block * 128 + 128, strip * 16 : strip * 16 + 16]
                below = bits
                for width, count in planes:
                    below -= width
                    words = np.zeros((32, count), np.uint32)
                    for lane in range(32):
                        g, t = divmod(lane, 4)
                        for s in range(4):
                            for i in range(4):
                                for j in range(4):
                                    row = g + 8 * (i & 1)
                                    code = int(part[32 * s + 16 * (i >> 1) + 4 * t + j, 2 * (row % 8) + row // 8])
                                    field = code >> below & (2**width - 1)
                                    word, place = {
                                        8: (4 * s + i, 0),
                                        4: (2 * s + (i & 1), 4 * (i >> 1)),
                                        2: (s, 2 * i),
                                        1: (s // 2, 2 * (s % 2) + (i & 1) + 4 * (i >> 1)),
                                    }[width]
                                    words[lane, word] |= np.uint32(field << (8 * j + place))
                    piece = min(count, 4)
                    out.append(words.reshape(32, -1, piece).transpose(1, 0, 2).reshape(-1))
    return np.concatenate(out).view(np.uint8)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [False, True])
def test_weights_lie_as_the_picture_says_packed_on_host_and_device(cuda: Cuda, emulator: Emulator, bits: int, signed: bool) -> None:
    rng = np.random.default_rng(bits)
    for k, n in ((1, 1), (130, 150)):
        b = random_matrix(rng, (k, n), bits, signed)
        host = cuda.native.Weights.from_host(b, bits, 0)
        np.testing.assert_array_equal(host.to_host(), packed_by_the_picture(b, bits))
        assert host.nbytes >= -(-k // 128) * 128 * -(-n // 16) * 16 * bits // 8
        np.testing.assert_array_equal(host.unpack(), b)
        sums = b.astype(np.int64).sum(axis=0) - (0 if signed else k * 2 ** (bits - 1))
        np.testing.assert_array_equal(host.sums(), sums)
        memory = cuda.upload(b.T.copy())  # any strides
        device = cuda.native.Weights.from_device(memory.pointer, k, n, 1, k, signed, bits, 0, 0)
        np.testing.assert_array_equal(device.to_host(), host.to_host())
        np.testing.assert_array_equal(device.sums(), host.sums())


def test_a_value_out_of_range_is_found_first_in_order(cuda: Cuda, emulator: Emulator) -> None:
    b = np.zeros((40, 30), np.int8)
    b[7, 3] = 4
    b[20, 1] = -5
    memory = cuda.upload(b)
    with pytest.raises(cuda.native.OutOfRange) as caught:
        cuda.native.Weights.from_device(memory.pointer, 40, 30, 30, 1, True, 3, 0, 0)
    assert caught.value.args[0] == 7 * 30 + 3
    for bits, index in ((3, 7 * 30 + 3), (4, -1)):
        a = cuda.native.Activations(pointer=memory.pointer, m=40, row_stride=30, bits=bits, signed=True)
        assert cuda.native.check(a, 30, 0, 0) == index


# ------------------------------------------------------------------------------------------------------------------------- choice


def test_every_kernel_has_the_file_of_its_name(cuda: Cuda) -> None:
    folder = Path(__file__).parents[1] / "csrc" / "cuda"
    sources = [source.stem for kind in ("wgmma_*.cu", "mma_*.cu", "conv_*_*x*.cu") for source in folder.glob(kind)]
    assert sorted([*cuda.native.kernels(), *cuda.native.conv_kernels()]) == sorted(sources)
    assert set(cuda.native.kernels()) == {*WGMMA, *S4, *S8, *PLANES}


def test_the_choice_follows_shape_bits_and_machine(cuda: Cuda) -> None:
    pick: Callable[..., dict[str, object]] = cuda.native.pick
    assert pick(8192, 8192, 8192, 4, False, 4, 90, 132, True)["kernel"] == "wgmma_128x256"
    assert str(pick(8192, 8192, 8192, 4, False, 4, 90, 132, False)["kernel"]).startswith("mma_s8")  # rows that TMA cannot bring
    for arch in (75, 80, 86, 89):
        assert str(pick(2048, 2048, 2048, 4, False, 4, arch, 60, True)["kernel"]).startswith("mma_s4"), arch
        assert str(pick(2048, 2048, 2048, 8, False, 4, arch, 60, True)["kernel"]).startswith("mma_s8"), arch
    for arch in (100, 103, 120):
        assert str(pick(2048, 2048, 2048, 4, False, 4, arch, 60, True)["kernel"]).startswith("mma_s8"), arch
    assert "bound by tensor cores" in str(pick(8192, 8192, 8192, 4, False, 4, 90, 132, True)["text"])
    for b_bits in (4, 8):
        text = str(pick(16, 8192, 8192, 4, False, b_bits, 90, 132, True)["text"])
        assert "modelled clocks" in text
        assert "bound by memory" in text


def test_planes_are_chosen_for_few_pairs_of_bits_where_arithmetic_decides(cuda: Cuda) -> None:
    def kernel(m: int, bits: tuple[int, int], arch: int) -> str:
        return str(cuda.native.pick(m, 8192, 8192, bits[0], True, bits[1], arch, 132, True)["kernel"])

    for bits in ((1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (1, 3)):
        assert kernel(8192, bits, 90) == "wgmma_b1_128x256", bits
    for bits in ((3, 2), (3, 3), (4, 2), (8, 1), (1, 4)):  # each pass reads all bits of the weights: W4A1 is bound by L2
        assert kernel(8192, bits, 90) == "wgmma_128x256", bits
    for arch in (80, 86, 89):  # 4 x 4 bits on 4-bit tensor cores are as fast as four pairs of planes
        assert all(kernel(8192, bits, arch).startswith("mma_b1") for bits in ((1, 1), (2, 1), (1, 2), (3, 1))), arch
        assert kernel(8192, (2, 2), arch).startswith("mma_s4")
    for arch in (75, 100, 120):
        assert "b1" not in kernel(8192, (1, 1), arch)
    assert "b1" not in kernel(16, (1, 1), 90)  # the bytes of the weights decide, which are the same
    text = cuda.native.pick(8192, 8192, 8192, 1, True, 2, 90, 132, False)["text"]  # any address: planes are copies
    assert "2 x 1 pairs of planes" in text
    assert "modelled clocks" in text


def test_a_kernel_that_cannot_run_says_why(cuda: Cuda) -> None:
    pick = cuda.native.pick
    for arguments, why in (
        ((16, 16, 128, 4, False, 4, 90, 132, True, "mma_s4_64x16"), "no 4-bit tensor cores"),
        ((16, 16, 128, 8, False, 4, 80, 108, True, "mma_s4_64x16"), "4 bits or fewer"),
        ((16, 16, 128, 8, False, 4, 80, 108, True, "wgmma_128x16"), "needs sm_90"),
        ((16, 16, 128, 1, False, 1, 75, 40, True, "mma_b1_64x16"), "1-bit tensor cores"),
        ((16, 16, 128, 1, False, 1, 100, 148, True, "mma_b1_64x16"), "1-bit tensor cores"),
        ((16, 16, 128, 1, False, 1, 89, 128, True, "wgmma_b1_128x64"), "needs sm_90"),
        ((16, 16, 128, 1, False, 5, 90, 132, True, "wgmma_b1_128x64"), "4 bits or fewer"),
        ((16, 16, 128, 1, False, 4, 86, 82, True, "mma_b1_128x128"), "do not fit in shared memory"),
        ((16, 16, 128, 8, False, 4, 80, 108, True, "mma_s3"), "known are wgmma_128x256"),
        ((16, 16, 128, 8, False, 4, 70, 80, True), "sm_75"),
    ):
        with pytest.raises(ValueError, match=why):
            pick(*arguments)


def test_the_parts_of_k_can_be_forced(cuda: Cuda, emulator: Emulator) -> None:
    a, b = operands(1, 5, 40, 1500, (4, 4), (False, True))
    for kernel, parts in (("wgmma_128x16", 4), ("wgmma_128x32", 1), ("mma_s8_64x16", 3)):
        forced = f"{kernel}/{parts}"
        choice = cuda.native.pick(5, 40, 1500, 4, False, 4, 90, 4, True, forced)
        assert (choice["kernel"], choice["splits"]) == (kernel, parts)
        assert choice["clocks"] >= cuda.native.pick(5, 40, 1500, 4, False, 4, 90, 4, True)["clocks"]
        assert_exact(cuda.gemm(a, b, (4, 4), forced), matmul(a, b), forced)
    many = "in that many parts"
    for forced, why in (("wgmma_128x16/3", many), ("wgmma_128x256/2", many), ("mma_s8_64x16/0", "1 or more")):
        with pytest.raises(ValueError, match=why):
            cuda.native.pick(5, 40, 1500, 4, False, 4, 90, 4, True, forced)


def test_every_choice_fits_its_machine(cuda: Cuda) -> None:
    shared = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
    rng = np.random.default_rng(0)
    for _ in range(300):
        arch = int(rng.choice(list(shared)))
        m, n, k = (int(2 ** rng.uniform(0, 14)) for _ in range(3))
        choice = cuda.native.pick(
            m, n, k, int(rng.integers(1, 9)), bool(rng.integers(2)), int(rng.integers(1, 9)), arch, int(rng.integers(1, 170)), True
        )
        assert choice["shared_bytes"] <= shared[arch]
        assert choice["splits"] * 65536 >= k
        assert -(-m // choice["tile"][0]) >= 1
