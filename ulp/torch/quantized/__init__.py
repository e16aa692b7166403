"""Reading quantized modules of other libraries for `ulp.torch.convert`: integers, scales and bit widths as they are, nothing calibrated.

One module per library, imported only if a model holds layers of it.
"""

from __future__ import annotations

from typing import Any

_BREVITAS = ("brevitas.nn.quant_conv.QuantConv2d", "brevitas.nn.quant_linear.QuantLinear")
_TORCH_AO = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")


def library(layer: Any) -> str | None:
    """Whose quantized layer this is: "brevitas", "torch_ao", "torchao", or None."""
    kind = type(layer)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in _BREVITAS:
        return "brevitas"
    if name.startswith(_TORCH_AO) and kind.__name__ in ("Conv2d", "ConvReLU2d", "Linear", "LinearReLU"):
        return "torch_ao"
    weight = layer._parameters.get("weight")
    return "torchao" if weight is not None and type(weight).__module__.startswith("torchao.") else None


def is_leaf(module: Any) -> bool:
    """Whether torch.fx is to see this as one module."""
    return type(module).__module__.startswith(("brevitas.", *_TORCH_AO))
