"""Encoders of transformers, compiled, whole on the emulated GPU: the CPU's results bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_modules import NO_EMULATOR, load_emulated
from reference import assert_exact
from test_cuda_kernels import Emulator
from test_cuda_network import emulator, module  # noqa: F401  # fixtures

import ulp

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package)

from onnx_models import quantized  # noqa: E402  # what is not installed skips the file
from test_onnx_sequences import LENGTH, dynamic, encoder, tokens  # noqa: E402

pytestmark = pytest.mark.skipif(load_emulated() is None, reason=NO_EMULATOR)


def static() -> Any:
    return quantized(encoder("erf", layers=1), tokens(0, 4), op_types_to_quantize=["MatMul"])


def of_the_call() -> Any:
    return dynamic(encoder("tanh", mask=(1, 1, LENGTH), layers=1), op_types_to_quantize=["MatMul"])


@pytest.mark.parametrize(("model", "arch"), [(static, 80), (of_the_call, 90)])
def test_encoders(emulator: Emulator, model: Any, arch: int, tmp_path: Any) -> None:  # noqa: F811
    emulator.configure(arch, 4)
    network = ulp.load(model(), tune=False)
    there = network.to("cuda")
    mask = np.zeros((3, 1, 1, LENGTH), np.float32)
    mask[:, :, :, -2:] = -np.inf
    for images in (1, 3):  # one scale for all images of a call, so each batch is its own
        given = [tokens(images, images), mask[:images]][: len(network.inputs)]
        assert_exact(there(*given), network(*given), f"{images} images")
    network.save(tmp_path / "encoder.ulp")
    assert_exact(ulp.load(tmp_path / "encoder.ulp", device="cuda")(*given), network(*given), "saved")
