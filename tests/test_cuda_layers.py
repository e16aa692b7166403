"""Single layers on the emulated GPU, as converted torch models have them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from cuda_arrays import CupyArray, fake_cupy
from cuda_modules import NO_EMULATOR, load_emulated
from reference import assert_exact
from test_cuda_kernels import Emulator
from test_cuda_network import emulator, module  # noqa: F401  # fixtures

from ulp import nn
from ulp.nn import device_layer

pytestmark = pytest.mark.skipif(load_emulated() is None, reason=NO_EMULATOR)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Conv2d(3, 5, 3, 2, 1, bits=4), [(3, 9, 8), (3, 6, 6), (3, 9, 8)]),
        (nn.Conv2d(4, 4, 3, groups=4, bits=3), [(4, 5, 7)]),
        (nn.Linear(20, 7, bits=2, act_bits=8), [(20,)]),
        (nn.Linear(20, 7, bits=3, act_bits=8, dynamic="row"), [(20,)]),
        (nn.Linear(70, 9, bits=4, act_bits=4, dynamic="row"), [(70,)]),
    ],
)
def test_layers(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, layer: Any, sizes: list[tuple[int, ...]]) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setattr(device_layer, "MAX_SIZES", 1)
    rng = np.random.default_rng(0)
    if not layer.dynamic:
        layer.calibrate([rng.standard_normal((4, *sizes[0])).astype(np.float32)])
    there = device_layer.DeviceLayer(layer, 0)
    for size in sizes:
        for images in (3, 1):
            x = rng.standard_normal((images, *size)).astype(np.float32)
            found = there(CupyArray(x))
            assert type(found) is CupyArray
            assert_exact(found.host, layer(x), f"{size}")


def test_dynamic_layers_are_refused(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    there = device_layer.DeviceLayer(nn.Linear(20, 7, bits=4, dynamic=True), 0)
    with pytest.raises(nn.LayerError, match="Linear is dynamic, and a compiled network needs fixed ranges"):
        there(CupyArray(np.zeros((1, 20), np.float32)))
