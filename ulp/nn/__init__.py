"""Layers of low-bit integers with torch's signatures, and whole networks as one plan. Needs numpy only.

>>> import numpy as np, ulp
>>> nn = ulp.nn
>>> network = nn.Sequential(nn.Conv2d(3, 8, 3, bits=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2, bits=3))
>>> x = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
>>> compiled = nn.compile(network.calibrate([x]), x)
>>> np.array_equal(compiled(x), network(x))
True
"""

from .activations import ELU, GELU, Hardsigmoid, Hardswish, LeakyReLU, Mish, PReLU, Sigmoid, SiLU, Tanh
from .calibrate import calibrate
from .compiled import CompiledNetwork, compile, load  # noqa: A004  # named as torch's
from .grouped import GroupedLinear
from .linear import Linear
from .module import Module, Sequential
from .pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from .pooling1d import AdaptiveAvgPool1d, AvgPool1d, MaxPool1d
from .profile import Profile, ProfileRow
from .quantizer import Quantizer
from .recurrent import GRU, LSTM
from .sequences import LayerNorm, MultiheadAttention, RMSNorm, Softmax
from .shapes import LayerError
from .structure import Add, BatchNorm2d, Concat, Dropout, Flatten, Identity, Quantize, ReLU, ReLU6
from .transposed import ConvTranspose2d
from .weighted import Conv1d, Conv2d
from .weights import manual_seed

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "Add",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm2d",
    "CompiledNetwork",
    "Concat",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "GroupedLinear",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LayerError",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "Mish",
    "Module",
    "MultiheadAttention",
    "PReLU",
    "Profile",
    "ProfileRow",
    "Quantize",
    "Quantizer",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "calibrate",
    "compile",
    "load",
    "manual_seed",
]
