"""The budget of `bits="auto"`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from .request import Bits

_SHARE = re.compile(r"(?:(\d{1,4}(?:\.\d{1,6})?) ?)?W([1-8])A([1-8])", re.ASCII)


@dataclass(frozen=True)
class Budget:
    """What the choice may take; None: anything.

    max_ms: per call; or the time of the network that has one pair throughout (the first and the last layer with at least 8 bits), "W4A4",
    or a share of that, "0.5 W8A8". max_drop: points of the metric below the float model. max_bytes: of the network.
    """

    max_ms: float | str | None = None
    max_drop: float | None = None
    max_bytes: float | None = None

    def __post_init__(self) -> None:
        given = {"max_ms": self.max_ms, "max_drop": self.max_drop, "max_bytes": self.max_bytes}
        if all(value is None for value in given.values()):
            raise ValueError('bits="auto" needs a budget: max_ms= per call, max_drop= in points of the metric, or max_bytes=')
        if isinstance(self.max_ms, str):
            self.reference()
            del given["max_ms"]
        for name, value in given.items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise TypeError(f"{name}={value!r}: expected a number")
            if not (math.isfinite(value) and (value >= 0 if name == "max_drop" else value > 0)):
                raise ValueError(f"{name}={value!r}: expected a {'number of at least 0' if name == 'max_drop' else 'positive number'}")

    def reference(self) -> tuple[float, Bits] | None:
        """The share, and the pair whose network's time it is of; None where max_ms is a number."""
        if not isinstance(self.max_ms, str):
            return None
        match = _SHARE.fullmatch(self.max_ms)
        if match is None or not float(match[1] or 1):
            raise ValueError(f"max_ms={self.max_ms!r}: expected milliseconds, a pair such as 'W4A4', or a share of its time, '0.5 W8A8'")
        return float(match[1] or 1), Bits(int(match[2]), int(match[3]))
