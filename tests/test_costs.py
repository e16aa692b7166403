"""The costs that the choice of kernels follows: headers and JSON agree, every kernel has its figures, the choice obeys."""

from __future__ import annotations

import math
import pickle
import platform
from pathlib import Path

import numpy as np
import pytest

import ulp
from bench.reports import cost_headers
from bench.runs import costs, costs_vnni, modelled
from tools.arm.cycles import CORES
from ulp import _core

ARM = platform.machine().lower() in ("aarch64", "arm64")


VNNI = ("avxvnni", "avx512", "avx512vnni", "avx512vbmi")


def expected_basis() -> str:
    """Figures are called measured on the kinds of CPU on which they were: Zen 3, or those with VNNI that have fits of their own."""
    if ARM:
        return "modelled"
    if has_vnni():
        return "measured" if _core.cost_core() in costs_vnni.load()["cores"] else "modelled"
    return "measured" if _core.cost_core() == "zen3" else "modelled"


@pytest.mark.skipif(ARM or platform.system() != "Linux", reason="reads /proc/cpuinfo of x86")
def test_cores_are_told_by_family_and_model() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family, model = int(cpu["cpu family"]), int(cpu["model"])
    if (cpu["vendor_id"], family) == ("GenuineIntel", 6):
        assert (_core.cost_core() == "sapphire-rapids") == (model in (143, 207))
    if (cpu["vendor_id"], family) == ("AuthenticAMD", 25):
        assert _core.cost_core() == ("zen3" if model < 16 or 32 <= model < 96 else "zen4")


def has_vnni() -> bool:
    """Whether the choice follows the fits of costs_x86_vnni.h."""
    return not set(_core.available_isas()).isdisjoint(VNNI)


def test_the_headers_say_what_the_figures_say() -> None:
    """Else: python -m bench costs, costs --vnni, or model."""
    assert cost_headers.is_current(costs.load()), "csrc/gemm/costs_x86.h differs from bench/results/kernel_costs.json"
    assert cost_headers.is_current(costs_vnni.load()), "csrc/gemm/costs_x86_vnni.h differs from bench/results/kernel_costs_<core>.json"
    assert cost_headers.is_current(modelled.load(modelled.COSTS)), "csrc/gemm/costs_arm64.h differs from bench/results/modelled_costs.json"


def test_every_measured_cell_is_a_positive_number_for_each_height() -> None:
    stored = costs.load()
    for pairs in stored["kernels"].values():
        for figures in pairs.values():
            assert len(figures) == len(stored["rows"])
            assert all(value > 0 for value in figures)


def test_modelled_cells_are_known_on_the_cores_that_have_the_instructions() -> None:
    stored = modelled.load(modelled.COSTS)
    assert stored["basis"] == "modelled"
    for name, pairs in stored["kernels"].items():
        isa = name.split("_")[-2]
        for figures in pairs.values():
            assert len(figures) == len(stored["cpus"])
            for cpu, of_cpu in zip(stored["cpus"], figures, strict=True):
                runs = isa in ("scalar", *CORES[cpu].isas)
                assert len(of_cpu) == len(stored["rows"])
                assert all((value > 0) == runs for value in of_cpu), (name, cpu)


# Kernels whose figures are those of another one times a factor, until they are measured.
MODELLED = {"trim_avx2_2x32": "mul16_avx2_3x32"}


@pytest.mark.skipif(ARM, reason="they are for x86")
@pytest.mark.parametrize("pair", [(8, 8), (7, 8), (7, 7), (8, 6)])
def test_kernels_that_were_not_measured_are_modelled(pair: tuple[int, int]) -> None:
    candidates = {c.name: c for c in ulp.explain(64, 512, 512, bits=pair).candidates if c.runnable}
    for name, like in MODELLED.items():
        assert name not in costs.load()["kernels"]
        assert all(name not in of_core["kernels"] for of_core in costs_vnni.load()["cores"].values())
        if name in candidates:
            assert candidates[name].basis == "modelled"
            assert 0.5 < candidates[name].seconds / candidates[like].seconds < 1.5


@pytest.mark.parametrize("kernel", ulp.kernels(), ids=str)
def test_every_kernel_and_pair_has_its_cost(kernel: ulp.Kernel) -> None:
    if kernel.name in MODELLED:
        return
    if not ARM:
        fitted = costs_vnni.load()["cores"]
        assert kernel.name in fitted["sapphire-rapids"]["kernels"]  # the core that stands for others
        if kernel.available and _core.cost_core() in fitted:
            assert kernel.name in fitted[_core.cost_core()]["kernels"]
        if kernel.isa in VNNI:
            return
    stored = modelled.load(modelled.COSTS) if ARM else costs.load()
    assert {f"W{b}A{a}" for a, b in kernel.pairs} == set(stored["kernels"][kernel.name])


@pytest.mark.skipif(ARM, reason="fits are for x86")
@pytest.mark.parametrize("core", costs_vnni.load()["cores"])
def test_the_fit_is_close_to_what_was_measured(core: str) -> None:
    for name, fitted in costs_vnni.fit(costs_vnni.load()["cores"][core]).items():
        assert fitted.median <= 0.2, name
        assert all(coefficient >= 0 for coefficient in fitted.coefficients), name


@pytest.mark.parametrize("m", [1, 3, 8, 100, 4096])
@pytest.mark.parametrize("pair", [(1, 1), (2, 2), (3, 3), (8, 4), (8, 8)])
def test_the_default_is_the_first_of_the_ranking(m: int, pair: tuple[int, int]) -> None:
    a = np.zeros((m, 64), np.uint8)
    ulp.gemm(a, ulp.pack(np.zeros((64, 64), np.uint8), bits=pair[1]), bits=pair)
    candidates = [c for c in ulp.explain(m, 64, 64, bits=pair).candidates if c.runnable]
    assert _core.last_kernel() == candidates[0].name
    assert candidates[0].basis == ("modelled" if candidates[0].name in MODELLED else expected_basis())
    seconds = [c.seconds for c in candidates if not math.isnan(c.seconds)]
    assert seconds == sorted(seconds)


@pytest.mark.skipif("avx2" not in ulp.available_isas(), reason="needs AVX2")
def test_packing_a_counts_where_b_is_narrow() -> None:
    """A kernel that packs A takes longer per column for few columns; one that reads the codes themselves does so by less."""
    per_column = {}
    for n in (16, 512):
        per_column[n] = {c.kernel: c.seconds / n for c in ulp.explain(512, n, 512, bits=1).candidates if c.runnable}
    ratio = {kernel: per_column[16][kernel] / seconds for kernel, seconds in per_column[512].items()}
    assert ratio["lut_avx2_3x96"] > 1.5
    assert all(value >= 1 for value in ratio.values())


@pytest.mark.skipif("avx2" not in ulp.available_isas(), reason="needs AVX2")
def test_the_choice_for_wide_weights_follows_their_distribution() -> None:
    """Few weights near the ends of their interval: what trim leaves out of its lanes is little."""
    before = ulp.get_isa()
    ulp.set_isa("avx2")
    try:
        rng = np.random.default_rng(0)
        a = rng.integers(0, 256, (256, 2048)).astype(np.uint8)
        normal = rng.normal(size=(2048, 32))
        weights = {
            "trim_avx2_2x32": np.rint(normal / np.abs(normal).max(0) * 127).astype(np.int8),
            "mul16_avx2_3x32": rng.integers(-128, 128, (2048, 32)).astype(np.int8),
        }
        for kernel, b in weights.items():
            for packed in (ulp.pack(b, 8), pickle.loads(pickle.dumps(ulp.pack(b, 8)))):
                c = ulp.gemm(a, packed)
                assert _core.last_kernel() == kernel
                assert np.array_equal(c, a.astype(np.int64) @ b)
    finally:
        ulp.set_isa(before)
