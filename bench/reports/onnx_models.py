"""The table of `python -m bench onnx`: exported models in `ulp.load` beside onnxruntime and qonnx."""

from __future__ import annotations

from bench.runs.results import Cell, Group, Result

from .tables import Table, ratio


def _over(cell: Cell, group: Group, peer: str) -> str:
    found = group.find(peer)
    return ratio(cell.over(found)) if found else "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def tables(result: Result) -> list[Table]:
    """One row per model and batch."""
    rows = []
    for group in result.groups:
        cell = group.cells[0]
        info = cell.info
        executor = info.get("qonnx_executor_ms")
        rows.append(
            (
                group.name,
                _ms(cell.time.median / 1e6),
                _over(cell, group, "onnxruntime QCDQ"),
                _over(cell, group, "onnxruntime int8 QDQ"),
                "-" if executor is None else f"{executor / (cell.time.median / 1e6):.0f}x",
                _ms(info.get("load_ms")),
                _ms(info.get("saved_load_ms")),
            )
        )
    header = (
        "",
        "ms",
        "over onnxruntime, same model",
        "over onnxruntime, int8 model",
        "over qonnx's executor",
        "load from ONNX, ms",
        "saved form, ms",
    )
    note = (
        "Exported by Brevitas, with random weights but for the digits; onnxruntime runs the QCDQ form of the model in floats. "
        "qonnx's executor was timed by itself."
    )
    return [Table("Models from ONNX, one core", header, rows, note)]
