"""Networks trained with Brevitas and exported by it: `ulp.load` predicts what they predict."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp

pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore")  # what torch and Brevitas say of each other
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("brevitas")
    import torch

    from bench.subjects.brevitas_networks import TRAIN, binary, convolutional, digits, export, mobilenet_v2, resnet18, settle, train

NETWORKS: dict[str, Callable[[], Any]] = {
    "w3a3": lambda: convolutional(3, 3),
    "w2a2": lambda: convolutional(2, 2),
    "w4a8": lambda: convolutional(4, 8),
    "w3a3-signed": lambda: convolutional(3, 3, signed=True),
    "binary": binary,
}


def logits_of(network: Any, images: Any) -> Array:
    """What Brevitas computes, in the images' precision."""
    with torch.inference_mode():
        logits = network(images)
    return np.asarray(getattr(logits, "value", logits).numpy())


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request: pytest.FixtureRequest) -> tuple[str, Any, Array, Array]:
    """Name, network and its logits of the held-out images, in float32 and in float64."""
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    train(network)
    images = digits()[0][TRAIN:]
    return request.param, network, logits_of(network, images), logits_of(copy.deepcopy(network).double(), images.double())


@pytest.mark.parametrize("kind", ["qonnx", "qcdq"])
def test_predictions_of_all_held_out_digits(trained: tuple[str, Any, Array, Array], kind: str) -> None:
    name, network, expected, precise = trained
    if (name, kind) == ("binary", "qcdq"):
        pytest.skip("QCDQ has no binary quantizers, and Brevitas refuses")
    images, classes = digits()
    model = export(network, kind, images[:1])
    loaded = ulp.load(model, tune=False, strict=True)
    assert loaded.integer, loaded
    logits = loaded(images[TRAIN:].numpy())
    assert (expected.argmax(axis=1) == classes[TRAIN:].numpy()).mean() > 0.85
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    # Float32 rounds, so that a value next to the middle between two codes may fall to either: with 8 bits that happens to one code of some
    # images, here as in Brevitas and in onnxruntime.
    wrong = (np.abs(logits - expected) > 1e-5 * np.abs(expected).max()).any(axis=1)
    assert wrong.sum() <= (25 if name == "w4a8" else 0), np.flatnonzero(wrong)
    # Thresholds decide as real arithmetic does, with the file's float32 scales. The network in float64 calculates its own, which nothing
    # rounds to float32, so that with 8 bits a code next to a middle may differ.
    exact = ulp.load(model, tune=False, mode="threshold")(images[TRAIN:].numpy())
    wrong = (np.abs(exact - precise) > 1e-5).any(axis=1)
    assert wrong.sum() <= (2 if name == "w4a8" else 0), np.flatnonzero(wrong)
    bits = {row.bits for row in loaded.layers if row.op_type == "Conv"}
    assert bits == {"w3a3": {(8, 8), (3, 3)}, "w2a2": {(8, 8), (2, 2)}, "w4a8": {(8, 8), (4, 8)}, "binary": {(8, 8), (1, 2)}}.get(
        name, bits
    )


@pytest.mark.parametrize("make", [resnet18, mobilenet_v2])
def test_residual_networks(make: Callable[[int], Any]) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64) / 2
    network = settle(make(3), images)
    expected = logits_of(network, images)
    logits = ulp.load(export(network, "qonnx", images[:1]), tune=False, strict=True)(images.numpy())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6)
