"""What `python -m bench compare` prints."""

from __future__ import annotations

from bench.runs.compare import OWN, Comparison

from .tables import Table


def text(found: Comparison) -> str:
    """The cells that moved, largest first, and what noise was."""
    own = [shift for shift in found.shifts if shift.kind in OWN]
    lines = [f"note: {note}" for note in found.notes]
    words = (
        f"{found.what}: {len(own)} cells of ulp, {len(found.moved)} moved. By what the peers and bare loops, the same code in both runs, "
        f"seem to move, noise is up to {found.noise:.2f}x."
    )
    lines.append(words)
    if found.moved:
        rows = [
            (s.group, s.name, f"{s.ns[0] / 1e3:.1f}", f"{s.ns[1] / 1e3:.1f}", s.words(), f"{s.noise:.2f}x")
            for s in found.moved
        ]  # fmt: skip
        header = ("", "", "us before", "us after", "beside its peers", "noise")
        lines.append(Table("Moved beyond noise", header, rows).text())
    if found.only:
        lines.append(f"not in both: {'; '.join(found.only[:10])}" + (f" and {len(found.only) - 10} more" if len(found.only) > 10 else ""))
    return "\n".join(lines)
