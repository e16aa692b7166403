"""Small float networks for quantization after training, trained on scikit-learn's digits: `python -m bench train_float`.

A ResNet, a MobileNet-like network with hard-swish, and a depthwise network as they are used for keywords (DS-CNN, Zhang et al., "Hello
Edge", 2017). Their weights lie in bench/trained in 16 bits; training again takes some minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import ROOT

TRAINED = ROOT / "bench" / "trained"
TEST_SHARE = 0.4
EPOCHS, BATCH, RATE = 20, 64, 4e-3

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes (He et al., 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Inverted(nn.Module):
    """MobileNetV3's block without squeeze and excitation: 1x1 up, 3x3 depthwise, 1x1 down; hard-swish (Howard et al., 2019)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = inputs * expand
        self.add = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *_normed(nn.Conv2d(inputs, middle, 1, bias=False), nn.Hardswish()),
            *_normed(nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False), nn.Hardswish()),
            *_normed(nn.Conv2d(middle, outputs, 1, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return x + self.body(x) if self.add else self.body(x)


def _normed(conv: nn.Conv2d, *then: nn.Module) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), *then]


def resnet() -> nn.Module:
    """For 16 x 16 pixels: 24, 48 and 96 channels, 174 000 weights."""
    return nn.Sequential(
        *_normed(nn.Conv2d(1, 24, 3, 1, 1, bias=False), nn.ReLU()),
        Residual(24, 24, 1), Residual(24, 48, 2), Residual(48, 96, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def mobilenet() -> nn.Module:
    """For 32 x 32 pixels: five inverted residuals, hard-swish, 57 000 weights."""
    return nn.Sequential(
        *_normed(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.Hardswish()),
        Inverted(16, 24, 1, 3), Inverted(24, 24, 1, 3), Inverted(24, 40, 2, 3), Inverted(40, 40, 1, 3), Inverted(40, 64, 1, 3),
        *_normed(nn.Conv2d(64, 128, 1, bias=False), nn.Hardswish()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def keyword() -> nn.Module:
    """For 32 x 32 pixels: a 5x3 convolution, four depthwise-separable ones of 64 channels, ReLU, 22 000 weights."""
    layers: list[nn.Module] = _normed(nn.Conv2d(1, 64, (5, 3), 2, (2, 1), bias=False), nn.ReLU())
    for _ in range(4):
        layers += _normed(nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.ReLU())
        layers += _normed(nn.Conv2d(64, 64, 1, bias=False), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {"resnet": (resnet, 16), "mobilenet": (mobilenet, 32), "keyword": (keyword, 32)}
"""What makes each network, and the side of its images."""


def digits(side: int) -> tuple[F32, I64, F32, I64]:
    """scikit-learn's digits, enlarged to `side` pixels: images (N, 1, side, side) and labels to train on, and to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy((pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    if side != 8:
        images = functional.interpolate(images, (side, side), mode="bilinear", align_corners=False)
    fit, test = train_test_split(np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=0)
    x, y = images.numpy(), labels.astype(np.int64)
    return x[fit], y[fit], x[test], y[test]


def trained(name: str) -> nn.Module:
    """The trained network, in eval mode. ValueError for a name that is none of NETWORKS."""
    if name not in NETWORKS:
        raise ValueError(f"{name!r}: expected one of {', '.join(NETWORKS)}")
    network = NETWORKS[name][0]()
    with np.load(TRAINED / f"digits_{name}.npz", allow_pickle=False) as file:
        state = {key: torch.from_numpy(file[key].astype(np.float32) if file[key].dtype == np.float16 else file[key]) for key in file}
    network.load_state_dict(state, strict=False)  # without BatchNorm's num_batches_tracked
    return network.eval()


def fit(network: nn.Module, side: int, *, epochs: int = EPOCHS, rate: float = RATE, seed: int = 0) -> None:
    """Train in place: Adam, cross-entropy, digits shifted by up to a twelfth of their side, a rate that falls along a cosine."""
    x, y = (torch.from_numpy(array) for array in digits(side)[:2])
    generator = torch.Generator().manual_seed(seed)
    steps = -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).chunk(steps):
            most = max(1, side // 12)
            shift = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
            optimizer.zero_grad()
            functional.cross_entropy(network(x[chosen].roll(shift, (2, 3))), y[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def percent_right(logits: Any, labels: I64) -> float:
    """0 .. 100."""
    return 100 * float((np.asarray(logits).argmax(axis=1) == labels).mean())


def main(arguments: Sequence[str]) -> None:
    """Train the networks and write digits_<name>.npz for each."""
    parser = argparse.ArgumentParser(prog="python -m bench train_float", description="Train the float networks that are quantized.")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=TRAINED, help="directory of the files")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the order of float sums depends on it
    torch.use_deterministic_algorithms(True)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.networks:
        begin = time.perf_counter()
        torch.manual_seed(0)
        make, side = NETWORKS[name]
        network = make()
        fit(network, side, epochs=given.epochs)
        small = {key: value.half() if value.ndim > 1 else value for key, value in network.state_dict().items() if value.ndim}
        path = given.out / f"digits_{name}.npz"
        save: Any = np.savez_compressed
        save(path, **{key: value.numpy() for key, value in small.items()})
        network.load_state_dict({key: value.float() for key, value in small.items()}, strict=False)
        _, _, x, y = digits(side)
        with torch.inference_mode():
            right = percent_right(network(torch.from_numpy(x)), y)
        size = path.stat().st_size / 1024
        print(f"{name}: {right:.2f} % of {len(y)} test images right, {size:.0f} KiB, {time.perf_counter() - begin:.0f} s")
