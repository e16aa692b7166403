"""The names under which pickles of older versions look for the modules of ulp/torch/quantized."""

from __future__ import annotations

import sys

from .torch.quantized import found, integer_linear, torch_ao, torchao

sys.modules |= {
    f"{__name__}.layers": found,
    f"{__name__}.integer_linear": integer_linear,
    f"{__name__}.torch_ao": torch_ao,
    f"{__name__}.torchao": torchao,
}
