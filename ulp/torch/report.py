"""What `convert` says that it did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Converted:
    """A layer that was converted: its name, class and bits, the batch normalisation that was folded into it, whether its input is known."""

    name: str
    kind: str
    bits: int
    act_bits: int
    folded: str | None
    calibrated: bool


@dataclass(frozen=True)
class Report:
    """What `convert` did. left: by name, why a layer with weights, or a batch normalisation, stayed as it was."""

    converted: list[Converted] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{c.name}: {c.kind} W{c.bits}A{c.act_bits}"
            + (f", {c.folded} folded in" if c.folded else "")
            + ("" if c.calibrated else ", not calibrated")
            for c in self.converted
        ]
        return "\n".join([*lines, *(f"{name}: left, {reason}" for name, reason in self.left.items())])
