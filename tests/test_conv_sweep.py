"""Random convolutions on every path, 10^6 outputs each; where everything is ten times slower, fewer. See conv_sweep.py."""

from __future__ import annotations

import conv_sweep
import pytest
from hypothesis import settings

import ulp
from ulp import _core

# Techniques whose kernels take rows of A from anywhere; some convolve at some widths of their tables only.
CONVOLVE = {"padded": {"mul8", "mul16", "dot", "lut", "mull", "mmla"}, "tight": {"mul8", "mul16", "dot"}, "depthwise": set()}


@pytest.mark.parametrize("form", conv_sweep.FORMS)
def test_every_path_against_int64(form: str) -> None:
    outputs = 1_000_000 if settings().max_examples >= 60 else 20_000
    done = conv_sweep.sweep(form, outputs, seed=1)
    assert min(done.values()) >= outputs
    isas = ulp.available_isas()
    assert {path.isa for path in done if path.method is None} == set(isas)
    expected = {k["name"] for k in _core.kernels() if k["isa"] in isas and k["technique"] in CONVOLVE[form]}
    expected -= {"lut_avx512vbmi_4x128"}  # its steps are no whole number of k
    if form != "depthwise":
        expected.add("direct")
    if form == "padded" and "avx2" in isas:
        expected.add("winograd")
    assert {path.method for path in done} - {None} >= expected
