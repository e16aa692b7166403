"""The tables of `python -m bench quantize`: float models quantized after training."""

from __future__ import annotations

from bench.runs.results import Group, Result

from .tables import Table, ratio


def tables(result: Result) -> list[Table]:
    """One table per model and instruction set."""
    return [_table(group) for group in result.groups]


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
        rows.append((cell.name, f"{cell.info['accuracy']:.2f}", f"{cell.time.median / 1e6:.4g}", f"{cell.nbytes / 1e6:.3g}", over))
    metric = str(group.cells[0].info["metric"])
    cannot = group.cells[0].info.get("cannot", {})
    notes = [f"{name}: {why}" for name, why in cannot.items() if ", " not in name or name.endswith(group.name.split(", ")[1])]
    legend = (
        "Quantized after training only; one core; ms are medians. MB: of ulp packed weights and constants, of others the file. `auto` "
        "judges by other inputs than those of the accuracy shown."
    )
    note = " ".join([legend, *notes])
    return Table(f"Quantized after training: {group.name}", ("", metric, "ms", "MB", "over float"), rows, note)
