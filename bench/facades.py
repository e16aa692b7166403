"""What `networks.py` calls `nn`: `torch.nn`, or `ulp.nn` at some bits. The recorder, which needs neither, is in `graph.py`."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from . import subject

FIRST_BITS = 8


class TorchNN:
    """torch.nn with `Add` and `Concat`.

    relu6 False puts ReLU for ReLU6, as torchvision's quantisable networks do: torch fuses only ReLU.
    """

    def __init__(self, *, relu6: bool = True) -> None:
        self._torch: Any = importlib.import_module("torch")
        torch = self._torch

        class Add(torch.nn.Module):  # type: ignore[misc, name-defined]
            def forward(self, x: Any, y: Any) -> Any:
                return x + y

        class Concat(torch.nn.Module):  # type: ignore[misc, name-defined]
            def forward(self, x: Any) -> Any:
                return torch.cat(x, 1)

        self.Add = Add
        self.Concat = Concat
        # In place, as torchvision's are: less memory, less time.
        self.ReLU = functools.partial(torch.nn.ReLU, inplace=True)
        self.ReLU6 = functools.partial(torch.nn.ReLU6, inplace=True) if relu6 else self.ReLU

    def Conv2d(self, *arguments: Any, first: bool = False, **more: Any) -> Any:  # noqa: N802 - torch's name
        """torch's; the first layer is like any other."""
        del first
        return self._torch.nn.Conv2d(*arguments, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch.nn, name)


class UlpNN:
    """ulp.nn with weights of `bits` and activations of `act_bits` in every layer that multiplies, but for the first, which has 8 and 8."""

    def __init__(self, bits: int, act_bits: int) -> None:
        subject.load()
        self._nn: Any = importlib.import_module("ulp.nn")
        self.bits = {"bits": bits, "act_bits": act_bits}

    def Conv2d(self, *arguments: Any, first: bool = False, **more: Any) -> Any:  # noqa: N802 - torch's name
        """At the network's widths, or at 8 and 8."""
        widths = {"bits": FIRST_BITS, "act_bits": FIRST_BITS} if first else self.bits
        return self._nn.Conv2d(*arguments, **more, **widths)

    def Linear(self, *arguments: Any, **more: Any) -> Any:  # noqa: N802 - torch's name
        """At the network's widths."""
        return self._nn.Linear(*arguments, **more, **self.bits)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nn, name)
