"""What `convert` says that it did, and of which modules it has to say something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ulp._table import Printed, Table


@dataclass(frozen=True)
class Converted:
    """A layer that was converted: its name, class and bits, the batch normalisation that was folded into it, whether its input is known."""

    name: str
    kind: str
    bits: int
    act_bits: int
    folded: str | None
    calibrated: bool


@dataclass(frozen=True, repr=False)
class Report(Printed):
    """What `convert` did. left: by name, why a layer with weights, or a batch normalisation, stayed as it was."""

    converted: list[Converted] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def _table(self) -> Table:
        rows = [
            (
                c.name,
                c.kind,
                f"W{c.bits}A{c.act_bits}",
                f"{c.folded} folded in" if c.folded else "",
                "" if c.calibrated else "not calibrated",
            )
            for c in self.converted
        ]
        return Table(
            ("layer", "type", "bits", "norm", "why"), [*rows, *((name, "", "", "", f"left, {why}") for name, why in self.left.items())]
        )

    def __str__(self) -> str:
        lines = [
            f"{c.name}: {c.kind} W{c.bits}A{c.act_bits}"
            + (f", {c.folded} folded in" if c.folded else "")
            + ("" if c.calibrated else ", not calibrated")
            for c in self.converted
        ]
        return "\n".join([*lines, *(f"{name}: left, {reason}" for name, reason in self.left.items())])

    __repr__ = __str__


def has_weights(module: Any) -> bool:
    """Whether the module itself, and not only a part of it, multiplies by weights: matrices, or what torch.ao has packed."""
    home = type(module).__module__
    if home.startswith(("brevitas.core.", "brevitas.proxy.")):  # parts of quantizers
        return False
    if home.startswith("torch.ao.nn.") and any(hasattr(module, name) for name in ("_packed_params", "_all_weight_values")):
        return True
    if type(module).forward is torch.nn.Module.forward:  # it only holds tensors, as the modules of exported graphs
        return False
    # Norms have no matrices, and of an attention its output projection has a line.
    others = torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm, torch.nn.MultiheadAttention
    return not isinstance(module, others) and any(p is not None and p.dim() > 1 for p in module._parameters.values())
