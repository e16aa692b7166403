"""Operators on numpy arrays: what of a model cannot run in integers runs by these, and constants are folded by them.

`OPERATORS[op_type].bind(attributes, opset, inputs=..., outputs=...)` is a function of arrays; see `Operator`.
"""

from __future__ import annotations

from . import elementwise, minifloat, products, qonnx, quantized, reductions, resizing, shaping, windows  # noqa: F401  # they put rows in
from .registry import NEWEST_OPSET, OLDEST_OPSET, OPERATORS, Operator

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "OPERATORS", "Operator"]
