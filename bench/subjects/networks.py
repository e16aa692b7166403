"""Seven convolutional networks in torchvision's variants, each written once for every `nn` that has torch's layers.

`nn` is `torch_nn.TorchNN`, `ulp_networks.UlpNN` at some bits, or the recorder of `graph.py`. Beyond torch's own layers it
has `Add()` and `Concat()`, since a quantized network must know where two tensors meet, and `Conv2d(..., first=True)` for the first layer,
which keeps 8-bit weights and activations at every width, as is the custom. Everything else, the last layer too, has the low width.
Dropout and auxiliary classifiers do nothing at inference and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

CLASSES = 1000
INPUT = (3, 224, 224)


def _conv(nn: Any, channels: int, filters: int, kernel: int, stride: int = 1, padding: int = 0, **more: Any) -> list[Any]:
    """Convolution and ReLU."""
    return [nn.Conv2d(channels, filters, kernel, stride, padding, **more), nn.ReLU()]


def _conv_norm(
    nn: Any, channels: int, filters: int, kernel: int, stride: int = 1, *, act: str | None = "ReLU", eps: float = 1e-5, **more: Any
) -> list[Any]:
    """Convolution that keeps the size (but for its stride), batch norm, and an activation unless `act` is None."""
    made = [nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False, **more), nn.BatchNorm2d(filters, eps=eps)]
    return made + ([getattr(nn, act)()] if act else [])


def _residual(nn: Any, body: Sequence[Any], shortcut: Sequence[Any] = (), *, relu: bool = True) -> Any:
    class Residual(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(*body)
            if shortcut:
                self.shortcut = nn.Sequential(*shortcut)
            self.add = nn.Add()
            if relu:
                self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            y = self.add(self.body(x), self.shortcut(x) if shortcut else x)
            return self.relu(y) if relu else y

    return Residual()


def _branches(nn: Any, *branches: Sequence[Any]) -> Any:
    class Branches(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for i, branch in enumerate(branches, start=1):
                setattr(self, f"branch{i}", nn.Sequential(*branch))
            self.concat = nn.Concat()

        def forward(self, x: Any) -> Any:
            return self.concat([getattr(self, f"branch{i}")(x) for i in range(1, len(branches) + 1)])

    return Branches()


def _classifier(nn: Any, channels: int) -> list[Any]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def alexnet(nn: Any) -> Any:
    """Krizhevsky, "One weird trick", 2014."""
    return nn.Sequential(
        *_conv(nn, 3, 64, 11, 4, 2, first=True), nn.MaxPool2d(3, 2), *_conv(nn, 64, 192, 5, 1, 2), nn.MaxPool2d(3, 2),
        *_conv(nn, 192, 384, 3, 1, 1), *_conv(nn, 384, 256, 3, 1, 1), *_conv(nn, 256, 256, 3, 1, 1), nn.MaxPool2d(3, 2),
        nn.Flatten(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, CLASSES),
    )  # fmt: skip


def vgg16(nn: Any) -> Any:
    """Simonyan and Zisserman, 2014, configuration D, without batch norm."""
    layers, channels = [], 3
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += _conv(nn, channels, filters, 3, 1, 1, first=channels == 3)
            channels = filters
        layers.append(nn.MaxPool2d(2, 2))
    head = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, CLASSES)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def _resnet(nn: Any, counts: Sequence[int], expansion: int, body: Callable[[int, int, int], list[Any]]) -> Any:
    layers, channels = [*_conv_norm(nn, 3, 64, 7, 2, first=True), nn.MaxPool2d(3, 2, 1)], 64
    for stage, count in enumerate(counts):
        width = 64 << stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            changes = stride > 1 or channels != width * expansion
            shortcut = _conv_norm(nn, channels, width * expansion, 1, stride, act=None) if changes else []
            layers.append(_residual(nn, body(channels, width, stride), shortcut))
            channels = width * expansion
    return nn.Sequential(*layers, *_classifier(nn, channels))


def resnet18(nn: Any) -> Any:
    """He et al., 2015."""

    def body(channels: int, width: int, stride: int) -> list[Any]:
        return [*_conv_norm(nn, channels, width, 3, stride), *_conv_norm(nn, width, width, 3, act=None)]

    return _resnet(nn, (2, 2, 2, 2), 1, body)


def resnet50(nn: Any) -> Any:
    """He et al., 2015, with the stride in the 3x3 convolution ("v1.5"), as torchvision has it."""

    def body(channels: int, width: int, stride: int) -> list[Any]:
        narrow = [*_conv_norm(nn, channels, width, 1), *_conv_norm(nn, width, width, 3, stride)]
        return [*narrow, *_conv_norm(nn, width, 4 * width, 1, act=None)]

    return _resnet(nn, (3, 4, 6, 3), 4, body)


# Filters of the 1x1 branch; the 3x3 branch's two; the "5x5" branch's two; the pooled branch; None: a pool that halves the image.
_INCEPTIONS: tuple[tuple[int, int, int, int, int, int] | int, ...] = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), 3,
    (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128), 2,
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip


def googlenet(nn: Any) -> Any:
    """Szegedy et al., 2014, as torchvision has it: with batch norm, and 3x3 where the paper has 5x5."""

    def conv(channels: int, filters: int, kernel: int, stride: int = 1, **more: Any) -> list[Any]:
        return _conv_norm(nn, channels, filters, kernel, stride, eps=1e-3, **more)

    def pool(kernel: int, stride: int = 2, padding: int = 0) -> Any:
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)

    layers = [*conv(3, 64, 7, 2, first=True), pool(3), *conv(64, 64, 1), *conv(64, 192, 3), pool(3)]
    channels = 192
    for row in _INCEPTIONS:
        if isinstance(row, int):
            layers.append(pool(row))
            continue
        one, three_in, three, five_in, five, pooled = row
        paths = [[*conv(channels, middle, 1), *conv(middle, filters, 3)] for middle, filters in ((three_in, three), (five_in, five))]
        layers.append(_branches(nn, conv(channels, one, 1), *paths, [pool(3, 1, 1), *conv(channels, pooled, 1)]))
        channels = one + three + five + pooled
    return nn.Sequential(*layers, *_classifier(nn, channels))


def squeezenet(nn: Any) -> Any:
    """Iandola et al., 2016, version 1.1."""

    def fire(channels: int, squeeze: int, expand: int) -> list[Any]:
        return [*_conv(nn, channels, squeeze, 1), _branches(nn, _conv(nn, squeeze, expand, 1), _conv(nn, squeeze, expand, 3, 1, 1))]

    def pool() -> Any:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *_conv(nn, 3, 64, 3, 2, first=True), pool(), *fire(64, 16, 64), *fire(128, 16, 64), pool(),
        *fire(128, 32, 128), *fire(256, 32, 128), pool(), *fire(256, 48, 192), *fire(384, 48, 192), *fire(384, 64, 256),
        *fire(512, 64, 256), *_conv(nn, 512, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def mobilenet_v2(nn: Any) -> Any:
    """Sandler et al., 2018, width 1."""
    layers, channels = _conv_norm(nn, 3, 32, 3, 2, act="ReLU6", first=True), 32
    for expansion, filters, count, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(count):
            stride, hidden = 1 if block else first_stride, channels * expansion
            body = _conv_norm(nn, channels, hidden, 1, act="ReLU6") if expansion > 1 else []
            body += _conv_norm(nn, hidden, hidden, 3, stride, act="ReLU6", groups=hidden) + _conv_norm(nn, hidden, filters, 1, act=None)
            layers += [_residual(nn, body, relu=False)] if stride == 1 and channels == filters else body
            channels = filters
    return nn.Sequential(*layers, *_conv_norm(nn, channels, 1280, 1, act="ReLU6"), *_classifier(nn, 1280))


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "AlexNet": alexnet,
    "VGG16": vgg16,
    "ResNet-18": resnet18,
    "ResNet-50": resnet50,
    "GoogLeNet": googlenet,
    "SqueezeNet 1.1": squeezenet,
    "MobileNetV2": mobilenet_v2,
}
# What torchvision publishes for its pretrained weights ("num_params").
PARAMETERS = {
    "AlexNet": 61_100_840,
    "VGG16": 138_357_544,
    "ResNet-18": 11_689_512,
    "ResNet-50": 25_557_032,
    "GoogLeNet": 6_624_904,
    "SqueezeNet 1.1": 1_235_496,
    "MobileNetV2": 3_504_872,
}


def named(names: Sequence[str] | None) -> list[str]:
    """The names in the order of `NETWORKS`, None for all; case and punctuation do not matter. ValueError lists the known ones."""

    def key(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum())

    known = {key(name): name for name in NETWORKS}
    if names is None:
        return list(NETWORKS)
    if unknown := [n for n in names if key(n) not in known]:
        raise ValueError(f"unknown networks {unknown}; known are {list(NETWORKS)}")
    wanted = {known[key(n)] for n in names}
    return [n for n in NETWORKS if n in wanted]
