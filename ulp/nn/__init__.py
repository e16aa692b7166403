"""Layers of low-bit integers with torch's signatures, and whole networks as one plan. Needs numpy only.

>>> import numpy as np, ulp
>>> nn = ulp.nn
>>> network = nn.Sequential(nn.Conv2d(3, 8, 3, bits=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2, bits=3))
>>> x = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
>>> compiled = nn.compile(network.calibrate([x]), x)
>>> np.array_equal(compiled(x), network(x))
True
"""

from .calibrate import calibrate
from .compiled import CompiledNetwork, compile, load  # noqa: A004  # named as torch's
from .module import Module, Sequential
from .pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from .profile import Profile, ProfileRow
from .quantizer import Quantizer
from .shapes import LayerError
from .structure import Add, BatchNorm2d, Concat, Dropout, Flatten, Identity, Quantize, ReLU, ReLU6
from .weighted import Conv2d, Linear
from .weights import manual_seed

__all__ = [
    "AdaptiveAvgPool2d",
    "Add",
    "AvgPool2d",
    "BatchNorm2d",
    "CompiledNetwork",
    "Concat",
    "Conv2d",
    "Dropout",
    "Flatten",
    "Identity",
    "LayerError",
    "Linear",
    "MaxPool2d",
    "Module",
    "Profile",
    "ProfileRow",
    "Quantize",
    "Quantizer",
    "ReLU",
    "ReLU6",
    "Sequential",
    "calibrate",
    "compile",
    "load",
    "manual_seed",
]
