"""Which core this is thought to be, and that the choice of kernels on it rests on something."""

from __future__ import annotations

import os
import platform

import pytest

import ulp
from ulp import _core

ARM = platform.machine().lower() in ("aarch64", "arm64")
PAIRS = [(1, 1), (2, 2), (3, 3), (4, 4), (8, 8)]


@pytest.mark.skipif(ARM, reason="cores are told apart on ARM")
def test_cores_are_not_told_apart_elsewhere() -> None:
    assert _core.cpu_core() == ""


@pytest.mark.skipif("ULP_AARCH64_CPU" not in os.environ, reason="not run by tools/arm/emulate, which says what it emulates")
def test_the_emulated_core_is_recognised() -> None:
    emulated = os.environ["ULP_AARCH64_CPU"]
    if emulated.startswith("max"):  # qemu's own, which no table knows
        assert _core.cpu_core().startswith("arm-")
    else:
        assert _core.cpu_core() == emulated
        assert ulp.config.cpu_name() == emulated


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_usual_choice_has_a_figure(pair: tuple[int, int]) -> None:
    for m in (1, 16, 1000):
        chosen = ulp.explain(m, 256, 256, bits=pair).candidates[0]
        assert chosen.basis in (("modelled",) if ARM else ("modelled", "measured"))
        assert chosen.seconds > 0


@pytest.mark.skipif(os.environ.get("ULP_AARCH64_CPU") not in {"cortex-a53", "cortex-a72"}, reason="two cores with the same instructions")
def test_cores_with_the_same_instructions_have_figures_of_their_own() -> None:
    seconds = ulp.explain(256, 256, 256, bits=3).candidates[0].seconds
    rate = 256**3 / seconds / 1e9
    assert rate < 7.5 if os.environ["ULP_AARCH64_CPU"] == "cortex-a53" else rate > 7.5
