"""Low-bit layers inside a live torch model: `convert` replaces its Conv1d, Conv2d and Linear. Float in, float out, for inference.

    low = ulp.torch.convert(model, bits=3, calibrate=batches)
    with torch.inference_mode():
        y = low(x)

The converted layers are torch modules that hold plain buffers: weights in `bits` bits each, scales, the input's quantizer. So `state_dict`,
`copy.deepcopy`, pickle and `torch.save` work as for any module. They compute by the operators `torch.ops.ulp.conv2d` and
`torch.ops.ulp.linear`, whose arguments are those buffers and numbers: a graph of torch.compile or torch.export holds everything, and an
exported program that was saved runs wherever `ulp.torch` is imported. Export under torch.no_grad() where parts of the model stay in float.

For a whole network in integers, without torch between its layers, see `ulp.compile`; or torch.compile(low, backend="ulp").
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as missing:
    raise ImportError('ulp.torch needs torch 2.6 or newer: pip install torch, or pip install "ulp-gemm[torch]"') from missing

from . import backend, decompositions
from .conversion import convert
from .layers import Conv1d, Conv2d, Linear
from .report import Converted, Report

__all__ = ["Conv1d", "Conv2d", "Converted", "Linear", "Report", "convert"]

decompositions.register()
backend.register()
