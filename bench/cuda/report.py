"""Tables from the result files of a device: against the targets, beside the peers, picked beside best, and what was checked.

    python -m bench.cuda.report [--results DIR]

Ratios are medians over rounds of the ratio within a round. A ceiling is the larger of two times: that of the tensor cores at the clock read
while the group ran, and that of the bytes at the rate of a 1 GiB copy of the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.reports.tables import Table, geomean, ratio
from bench.runs import results
from bench.runs.results import Cell, Group, Result

from . import work
from .work import Gpu, Work

CHECKS = "cuda_checks.json"
SANITIZERS = "cuda_sanitizers.json"
PLANES_SUFFIX = " few bits"  # of the groups of products that 1-bit tensor cores may multiply
LT, LT_TO_8, BF16 = "cuBLASLt int8", "cuBLASLt int8 to int8", "bf16 torch.matmul"
SQUARE = f"{work.SQUARE}x{work.SQUARE}x{work.SQUARE}"
FUSED = "ulp W4A4 to 4 bits"
# Targets: the square over cuBLASLt and in TOPS; few rows over cuBLASLt, over bf16, share of the copy's bandwidth.
SQUARE_OVER_LT, SQUARE_TOPS = 1.0, 1300.0
DECODE_OVER_LT, DECODE_OVER_BF16, DECODE_SHARE = 1.7, 3.0, 0.75
# Products of few bits at the square, over cuBLASLt's of int8.
PLANES_OVER_LT = {"W1A1": 4.0, "W1A2": 2.0, "W2A2": 1.1}
# "Time falls with the bytes": no more than this times what the bytes of W4A8 and of the narrower pair say.
NARROW_EXCESS = 1.25
MAX_PICKS = 25


@dataclass(frozen=True)
class Verdict:
    """One target: the figure that decides, written out, and whether it is met; None where it was not measured."""

    what: str
    target: str
    found: str
    met: bool | None


def device(result: Result) -> Gpu:
    """The device of a result file."""
    g = result.environment["gpu"]
    return Gpu(g["name"], g["arch"], g["sms"], g["l2_bytes"], g["memory_bytes"], g["clock_mhz"])


def copy_rate(result: Result) -> float | None:
    """Bytes per ns of the large copy, read and written both counted."""
    group = result.find("copy")
    cell = group.find("copy 1 GiB") if group else None
    return cell.nbytes / cell.time.median if cell else None


def clock(result: Result, group: Group) -> float | None:
    """The multiprocessors' clock in MHz while the group ran."""
    seen = result.settings.get("clocks", {}).get(group.name, {}).get("during")
    return seen["sm_mhz"] if seen else None


def ceiling(result: Result, group: Group, cell: Cell) -> tuple[float, str]:
    """(ns, what bounds) of a cell of `ulp` or an int8 peer."""
    a_bits, b_bits = cell.bits or (8, 8)
    tensor = work.tensor_ns(Work(*group.shape, a_bits, b_bits), device(result), clock(result, group))
    rate = copy_rate(result)
    memory = work.memory_ns(cell.nbytes, rate) if rate else 0.0
    return max(tensor, memory), "tensor cores" if tensor >= memory else "memory"


def tops(cell: Cell) -> float:
    """10^12 operations per second, two per multiply-accumulate."""
    return 2 * cell.macs / cell.time.median / 1e3


def _microseconds(ns: float) -> str:
    return f"{ns / 1e3:.1f}"


def _over(cell: Cell, peer: Cell | None) -> str:
    return ratio(cell.over(peer)) if peer else "-"


def _share(result: Result, cell: Cell) -> float | None:
    rate = copy_rate(result)
    return cell.nbytes / cell.time.median / rate if rate else None


def decode_groups(result: Result, layers: Sequence[tuple[int, int]] = work.LAYERS) -> Iterator[Group]:
    """Those that were measured, in order."""
    for n, k in layers:
        for rows in work.DECODE_ROWS:
            if group := result.find(f"{rows}x{n}x{k}"):
                yield group


# ----------------------------------------------------------------------------------------------------------------------------- targets


def verdicts(result: Result) -> list[Verdict]:
    """Every target, with the worst figure where it speaks of many shapes."""
    return [*_square_verdicts(result), *_planes_verdicts(result), *_decode_verdicts(result), *_narrow_verdicts(result)]


def _square_verdicts(result: Result) -> list[Verdict]:
    group = result.find(SQUARE)
    fused = group.find(FUSED) if group else None
    what = f"{SQUARE} W4A4, requantized to 4 bits"
    peer = min((c for name in (LT, LT_TO_8) if group and (c := group.find(name))), key=lambda c: c.time.median, default=None)
    over = fused.over(peer).median if fused and peer else None
    rate = tops(fused) if fused else None
    return [
        _at_least(what, f">= {SQUARE_OVER_LT:.1f}x {LT}", over, SQUARE_OVER_LT, "{:.2f}x" + (f" ({peer.name})" if peer else "")),
        _at_least(what, f">= {SQUARE_TOPS:.0f} TOPS", rate, SQUARE_TOPS, "{:.0f} TOPS"),
    ]


def _planes_verdicts(result: Result) -> list[Verdict]:
    group = result.find(planes_name(work.SQUARE))
    peer = group.find(LT) if group else None
    made = []
    for pair, limit in PLANES_OVER_LT.items():
        cell = group.find(f"ulp {pair}") if group else None
        over = cell.over(peer).median if cell and peer else None
        made.append(_at_least(f"{SQUARE} {pair}", f">= {limit:.1f}x {LT}", over, limit, "{:.2f}x"))
    return made


def _at_least(what: str, target: str, found: float | None, limit: float, form: str, where: str = "") -> Verdict:
    if found is None:
        return Verdict(what, target, "not measured", None)
    return Verdict(what, target, form.format(found) + where, found >= limit)


def _decode_verdicts(result: Result) -> list[Verdict]:
    made = []
    for pair in ("W4A4", "W4A8"):
        figures: dict[str, list[tuple[float, str]]] = {"lt": [], "bf16": [], "share": []}
        for group in decode_groups(result, work.TARGET_LAYERS):
            cell = group.find(f"ulp {pair}")
            if cell is None:
                continue
            for key, name in (("lt", LT), ("bf16", BF16)):
                if peer := group.find(name):
                    figures[key].append((cell.over(peer).median, group.name))
            if (share := _share(result, cell)) is not None:
                figures["share"].append((share, group.name))
        what = f"M = 1 ... 64, {pair}, the worst of all shapes"
        targets = (("lt", DECODE_OVER_LT, LT), ("bf16", DECODE_OVER_BF16, "bf16"))
        for key, limit, name in targets:
            worst = min(figures[key], default=(None, ""))
            made.append(_at_least(what, f">= {limit:.1f}x {name}", worst[0], limit, "{:.2f}x", _where(figures[key], worst[1], limit)))
        worst = min(figures["share"], default=(None, ""))
        target = f">= {DECODE_SHARE:.0%} of a copy's bandwidth"
        made.append(_at_least(what, target, worst[0], DECODE_SHARE, "{:.0%}", _where(figures["share"], worst[1], DECODE_SHARE)))
    return made


def _where(figures: Sequence[tuple[float, str]], worst: str, limit: float) -> str:
    return f" at {worst}, {sum(value >= limit for value, _ in figures)} of {len(figures)} meet it" if figures else ""


def _narrow_verdicts(result: Result) -> list[Verdict]:
    made = []
    for bits in (3, 2):
        excess = []
        for group in decode_groups(result, work.TARGET_LAYERS):
            narrow, wide = group.find(f"ulp W{bits}A8"), group.find("ulp W4A8")
            if narrow and wide:
                excess.append((narrow.time.median / wide.time.median / (narrow.nbytes / wide.nbytes), group.name))
        target = f"time over W4A8's <= {NARROW_EXCESS:.2f} times what the bytes say"
        worst = max(excess, default=None)
        what = f"M = 1 ... 64, W{bits}A8, the worst of all shapes"
        if worst is None:
            made.append(Verdict(what, target, "not measured", None))
        else:
            made.append(Verdict(what, target, f"{worst[0]:.2f} times at {worst[1]}", worst[0] <= NARROW_EXCESS))
    return made


def targets_table(result: Result) -> Table:
    """The targets and what was found."""
    words = {True: "met", False: "MISSED", None: "-"}
    rows = [(v.what, v.target, v.found, words[v.met]) for v in verdicts(result)]
    return Table("CUDA: targets", ("", "target", "found", ""), rows, provenance(result))


# ------------------------------------------------------------------------------------------------------------------------------ speed


def planes_name(rows: int) -> str:
    """Of the group of few bits at this M."""
    return f"{rows}x{work.SQUARE}x{work.SQUARE}{PLANES_SUFFIX}"


def square_table(result: Result, group: Group) -> Table:
    """One large product: time, rate, share of the tensor cores, ratios."""
    lt, bf16 = group.find(LT), group.find(BF16)
    rows = []
    for c in sorted(group.cells, key=lambda c: c.time.median):
        # A bf16 product takes the tensor cores twice as long as an int8 one.
        bound = ceiling(result, group, c)[0] * (2 if c.kind == "bf16" else 1)
        rows.append(
            (c.name, _microseconds(c.time.median), f"{tops(c):.0f}", f"{bound / c.time.median:.0%}", _over(c, lt), _over(c, bf16), _ran(c))
        )
    at = clock(result, group)
    note = f"Multiprocessors at {at:.0f} MHz while it ran." if at else ""
    header = ("", "microseconds", "TOPS", "share of the ceiling", f"over {LT}", "over bf16", "kernel")
    return Table(f"CUDA: {group.name}", header, rows, note)


def _ran(cell: Cell) -> str:
    splits = cell.info.get("splits", 1)
    return f"{cell.info['kernel']}{f'/{splits}' if splits > 1 else ''}" if "kernel" in cell.info else str(cell.info.get("variant", "-"))


def decode_table(result: Result, layer: tuple[int, int]) -> Table:
    """Few rows on one layer: every pair of `ulp` beside its ceiling and the peers."""
    rows = []
    for group in decode_groups(result, [layer]):
        lt, bf16 = group.find(LT), group.find(BF16)
        for c in group.of_kind("ulp"):
            bound, by = ceiling(result, group, c)
            share = _share(result, c)
            rows.append(
                (f"{group.shape[0]} {c.label}", _microseconds(c.time.median), _microseconds(bound), by, f"{share:.0%}" if share else "-",
                 _over(c, lt), _over(c, bf16), _ran(c))
            )  # fmt: skip
    header = ("M", "microseconds", "ceiling", "bound by", "of copy bandwidth", f"over {LT}", "over bf16", "kernel")
    return Table(f"CUDA: few rows, N = {layer[0]}, K = {layer[1]}", header, rows)


def peers_table(result: Result) -> Table:
    """Microseconds of every peer in every group of few rows and of prefill."""
    groups = [*decode_groups(result), *prefill_groups(result)]
    order = list(dict.fromkeys(c.name for g in groups for c in g.cells if c.kind in ("int8", "bf16", "copy")))
    rows = []
    for g in groups:
        found = [g.find(name) for name in order]
        rows.append((g.name, *(_microseconds(c.time.median) if c else "-" for c in found)))
    return Table("CUDA: peers, microseconds", ("", *order), rows)


def prefill_groups(result: Result) -> Iterator[Group]:
    """Those that were measured, in order."""
    for rows in work.PREFILL_ROWS:
        if group := result.find(f"{rows}x{work.SQUARE}x{work.SQUARE}"):
            yield group


def prefill_table(result: Result) -> Table:
    """Sizes between: `ulp` beside its ceiling and the peers."""
    rows = []
    for group in prefill_groups(result):
        lt, bf16 = group.find(LT), group.find(BF16)
        for c in group.of_kind("ulp"):
            bound, by = ceiling(result, group, c)
            rows.append(
                (f"{group.shape[0]} {c.label}", _microseconds(c.time.median), f"{tops(c):.0f}", f"{bound / c.time.median:.0%}", by,
                 _over(c, lt), _over(c, bf16), _ran(c))
            )  # fmt: skip
    header = ("M", "microseconds", "TOPS", "share of the ceiling", "bound by", f"over {LT}", "over bf16", "kernel")
    return Table(f"CUDA: more rows, N = K = {work.SQUARE}", header, rows)


def kernels_table(result: Result) -> Table:
    """The kernels that the peers ran, as the profiler names them."""
    rows = []
    for group in result.groups:
        for c in group.cells:
            if c.kind in ("int8", "bf16") and c.info.get("kernels"):
                rows.append((f"{group.name} {c.name}", "; ".join(_short(name) for name in c.info["kernels"])))
    return Table("CUDA: the peers' kernels", ("", "kernels"), rows)


def _short(name: str, max_length: int = 100) -> str:
    return name if len(name) <= max_length else f"{name[: max_length - 3]}..."


def picks_table(sweep: Result, max_rows: int | None = None) -> Table:
    """What the picker chose beside the fastest that was measured, the worst choices first."""
    found = []
    for group in sweep.groups:
        picked = next((c for c in group.cells if c.info.get("picked")), None)
        best = group.fastest("ulp")
        if picked and best:
            found.append((picked.time.median / best.time.median, group, picked, best))
    found.sort(key=lambda row: -row[0])
    rows = [
        (
            g.name,
            picked.name,
            _microseconds(picked.time.median),
            best.name,
            _microseconds(best.time.median),
            f"{loss:.2f}x",
            _modelled(sweep, g, picked),
        )
        for loss, g, picked, best in found[:max_rows]
    ]
    note = ""
    if found:
        good = sum(loss < 1.05 for loss, *_ in found)
        note = f"{good} of {len(found)} picks within 5 % of the best; {geomean(loss for loss, *_ in found):.3f}x on average."
    header = ("", "picked", "microseconds", "best", "microseconds", "picked / best", "modelled / measured clocks")
    return Table("CUDA: picked beside best", header, rows, note)


def _modelled(sweep: Result, group: Group, cell: Cell) -> str:
    at, modelled = clock(sweep, group), cell.info.get("modelled_clocks")
    return f"{modelled / (cell.time.median * at / 1e3):.2f}" if at and modelled else "-"


def provenance(result: Result) -> str:
    """One sentence."""
    e, g = result.environment, result.environment["gpu"]
    commit = (e.get("commit") or "unknown")[:12] + (" with local changes" if e.get("dirty") else "")
    rate = copy_rate(result)
    copied = f"; a copy of 1 GiB moves {rate / 1e3:.2f} TB/s" if rate else ""
    cut = "; cut short by the clock" if result.settings.get("cut") else ""
    return (
        f"Measured {e['date'][:10]} by `{e['command']}` on {g['name']} ({g['sms']} multiprocessors, {g['clock_mhz']:.0f} MHz at most, "
        f"driver {g['driver']}, CUDA {g['cuda']}){copied}; commit {commit}{cut}."
    )


def tables(result: Result, sweep: Result | None = None, max_picks: int | None = None) -> list[Table]:
    """Every table that the files allow."""
    made = [targets_table(result)]
    if group := result.find(SQUARE):
        made.append(square_table(result, group))
    made += [square_table(result, group) for rows in work.PLANE_ROWS if (group := result.find(planes_name(rows)))]
    made += [decode_table(result, layer) for layer in work.LAYERS]
    made += [prefill_table(result), peers_table(result), kernels_table(result)]
    if sweep:
        made.append(picks_table(sweep, max_picks))
    return [table for table in made if table.rows]


# ----------------------------------------------------------------------------------------------------------------------------- checks


def check_lines(checks: dict[str, Any] | None, sanitizers: dict[str, str] | None) -> list[str]:
    """What was checked, one line per check."""
    lines = []
    if checks:
        from .check import summary

        lines += [f"Checks on {checks['device']} (sm_{checks['arch']}, seed {checks['seed']}):", *summary(checks["stages"])]
    if sanitizers:
        lines += [f"compute-sanitizer {name}: {verdict}" for name, verdict in sanitizers.items()]
    return lines


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def show(directory: Path) -> None:
    """Print everything that lies there."""
    found = results.load_all(directory)
    refused = found["cuda"].settings.get("not_run", []) if "cuda" in found else []
    for row in refused:
        print(f"not measured: {row['name']} at {row['group']}: {row['reason']}")
    speed, sweep = found.get("cuda"), found.get("cuda_kernels")
    for table in reversed(tables(speed, sweep, MAX_PICKS) if speed else [picks_table(sweep, MAX_PICKS)] if sweep else []):
        print(table.text(), end="\n\n")
    print("\n".join(check_lines(_read(directory / CHECKS), _read(directory / SANITIZERS))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where a target is missed or was not measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=results.DIRECTORY)
    directory = parser.parse_args(arguments).results
    show(directory)
    speed = results.load_all(directory).get("cuda")
    return 0 if speed and all(verdict.met for verdict in verdicts(speed)) else 1


if __name__ == "__main__":
    sys.exit(main())
