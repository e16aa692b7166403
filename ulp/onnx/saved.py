"""The name under which pickles of older versions look for the function that loads a saved network."""

from __future__ import annotations

from .network import load_saved as load

__all__ = ["load"]
