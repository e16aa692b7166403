"""The super-resolution networks (ESPCN) that come with qonnx, against its executor."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import ulp

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore")  # what qonnx says of its packages
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    qonnx = pytest.importorskip("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

FOLDER = Path(qonnx.__path__[0]) / "data" / "onnx" / "bsd300x3-espcn"


@pytest.mark.parametrize("name", ["subpixel", "nn_resize"])
def test_images_are_those_of_qonnxs_executor(name: str) -> None:
    path = FOLDER / name / "quant_model.onnx"
    x = onnx.numpy_helper.to_array(onnx.load_tensor(str(FOLDER / "test_data" / "input_0.pb")))
    model = ModelWrapper(str(path)).transform(InferShapes())
    try:
        expected = execute_onnx(model, {model.graph.input[0].name: x})[model.graph.output[0].name]
    except Exception as error:
        if "Unsupported model IR version" in str(error):
            pytest.skip("the executor makes models of the IR version of onnx, which is too new for onnxruntime: pip install onnx==1.20.1")
        raise
    network = ulp.load(path, tune=False)
    pixels = network(x)
    assert pixels.shape == expected.shape
    # The executor adds floats: a pixel between two of the 256 levels may take either.
    steps = np.abs(np.rint(pixels * 255) - np.rint(expected * 255))
    assert steps.max() <= 1
    assert np.count_nonzero(steps) < 1e-4 * steps.size
    # subpixel's input is not quantized, so its first convolution is float; nn_resize is integer as a whole.
    assert network.integer is (name == "nn_resize"), network
