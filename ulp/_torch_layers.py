"""The name under which pickles of older versions look for the modules of ulp/torch/layers.py."""

from __future__ import annotations

from .torch.layers import Conv2d, Linear

__all__ = ["Conv2d", "Linear"]
