"""What the results of `python -m bench quantize` should reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator

from .results import Cell, Group

# Points of accuracy that a network may lose against floats.
_DROPS = {
    ("resnet", "W3A3"): 0.5,
    ("mobilenet", "W4A4"): 1.5,
    ("mobilenet", "W3A3"): 4.0,
    ("ocr", "W8A8"): 0.5,
    ("ocr", "W4A8"): 2.0,
}
# How many times as fast as torch's floats W4A4 by `ulp.compile` should be, by the batch.
_SPEEDS = {("resnet", 1): 8.0, ("resnet", 64): 5.0, ("mobilenet", 1): 4.0}
# How many times as long a network by `ulp.compile` may take as the same one written in ulp.nn.
_COMPILED = 1.1
# Seconds of a search for bits; times as fast as W4A4 at the same accuracy.
_SEARCH_S, _GAIN = 180.0, 1.15


def kept(group: Group) -> Iterator[tuple[str, str, str, str]]:
    """Of a group: its name, what is asked, what was measured, "yes" or "no"."""
    task = group.name.split(", ")[0]

    def row(asked: str, measured: str, holds: bool) -> tuple[str, str, str, str]:
        return group.name, asked, measured, "yes" if holds else "no"

    def accuracy(cell: Cell) -> float:
        return float(cell.info["accuracy"])

    cells = {cell.name: cell for cell in group.cells}
    if "float in torch" in cells:
        times = cells["float in torch"].time.median / cells["W4A4 by ulp.compile"].time.median
        least = _SPEEDS.get((task, group.shape[0]))
        if least is not None:
            yield row(f"W4A4 by ulp.compile at least {least:g} x torch", f"{times:.2f} x", times >= least)
        if "W4A4 in ulp.nn" in cells:
            times = cells["W4A4 by ulp.compile, arrays"].time.median / cells["W4A4 in ulp.nn"].time.median
            yield row(f"W4A4 by ulp.compile at most {_COMPILED:g} x as long as in ulp.nn", f"{times:.2f} x", times <= _COMPILED)
        return
    for (name, bits), most in _DROPS.items():
        if name == task:
            drop = accuracy(cells["float in onnxruntime"]) - accuracy(cells[bits])
            yield row(f"{bits} loses at most {most:g}", f"{drop:.2f}", drop <= most)
    for peer in ("onnxruntime int8", "NNCF int8"):
        if peer in cells:
            more = accuracy(cells["W8A8"]) - accuracy(cells[peer])
            yield row(f"W8A8 at least as good as {peer}", f"{more:+.2f}", more >= 0)
    same_time, same_accuracy = cells.get("auto, W4A4's ms"), cells.get("auto, W4A4's accuracy")
    if same_time:
        more = accuracy(same_time) - accuracy(cells["W4A4"])
        yield row("auto at W4A4's ms at least as good as W4A4", f"{more:+.2f}", more >= 0)
    if same_accuracy:
        times, more = cells["W4A4"].time.median / same_accuracy.time.median, accuracy(same_accuracy) - accuracy(cells["W4A4"])
        bound = next((cell.info["bits"] for cell in group.cells if "bits" in cell.info), None)
        ceiling = f", at most {bound['W4A4_ms'] / bound['least_ms']:.2f} x by bits" if bound else ""
        asked = f"auto at W4A4's accuracy {_GAIN:g} x as fast (on two networks)"
        yield row(asked, f"{times:.2f} x, {more:+.2f} points{ceiling}", times >= _GAIN)
    for cell in group.cells:
        if task == "ocr" and "search_s" in cell.info:
            yield row(f"{cell.name}: at most {_SEARCH_S:g} s", f"{cell.info['search_s']:g} s", cell.info["search_s"] <= _SEARCH_S)
