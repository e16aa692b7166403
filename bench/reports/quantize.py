"""The tables of `python -m bench quantize`: float models quantized after training."""

from __future__ import annotations

from bench.runs.results import Group, Result

from .tables import Table, ratio


def tables(result: Result) -> list[Table]:
    """One table per model and instruction set, and what the results should keep."""
    made = [_table(group) for group in result.groups]
    if limits := result.settings.get("limits"):
        rows = [tuple(row) for row in limits]
        made.append(Table("Quantized after training: limits", ("model", "asked", "measured", "kept"), rows, _LIMITS))
    return made


_LIMITS = (
    "`at most ... by bits`: the time of W4A4 over that of a network whose layers each have the pair that takes least, one bit included."
)


def stages_table(result: Result) -> Table:
    """Of `python -m bench stages`: accuracy, milliseconds and bytes after each stage."""
    (group,) = result.groups
    rows = [(c.name, f"{c.info['accuracy']:.2f}", f"{c.time.median / 1e6:.3g}", f"{c.nbytes / 1e3:.0f}") for c in group.cells]
    where = result.environment["machine"]["cpu"]
    note = f"Medians on one core of {where}, {result.environment['isa']}, {result.environment['date'][:10]}, by `python -m bench stages`."
    return Table("ResNet on digits, in stages", ("", str(group.cells[0].info["metric"]), "ms", "kB"), rows, note)


def _table(group: Group) -> Table:
    rows = []
    exact = group.find("float in onnxruntime")
    for cell in group.cells:
        over = ratio(cell.over(exact)) if exact else "-"
        accuracy = f"{cell.info['accuracy']:.2f}" if "accuracy" in cell.info else "-"
        rows.append((cell.name, accuracy, f"{cell.time.median / 1e6:.4g}", f"{cell.nbytes / 1e6:.3g}", over))
    metric = str(group.cells[0].info["metric"])
    cannot = group.cells[0].info.get("cannot", {})
    notes = [f"{name}: {why}" for name, why in cannot.items() if ", " not in name or name.endswith(group.name.split(", ")[1])]
    legend = (
        "Quantized after training only; one core; ms are medians. MB: of ulp packed weights and constants, of others the file. `auto` "
        "judges by other inputs than those of the accuracy shown."
    )
    note = " ".join([legend, *notes])
    return Table(f"Quantized after training: {group.name}", ("", metric, "ms", "MB", "over float"), rows, note)
