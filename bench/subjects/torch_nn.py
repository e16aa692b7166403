"""`torch.nn` as `networks.py` calls it. `ulp.nn` is in `ulp_networks.py`, the recorder, which needs neither, in `graph.py`."""

from __future__ import annotations

import functools
import importlib
from typing import Any


class TorchNN:
    """torch.nn with `Add` and `Concat`.

    relu6 False puts ReLU for ReLU6, as torchvision's quantizable networks do: torch fuses only ReLU.
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
