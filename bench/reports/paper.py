"""The paper's numbers, tables and plots from the result files: `python -m bench.reports.paper`.

    generate     writes paper/build: numbers.tex, one file per table, one PDF per plot, manifest.json
    check        fails where the text holds a measured number of its own, names one that does not exist, or leaves a modelled figure
                 without its label, and where paper/build is not what the result files say; lists results that are older than the
                 sources that they describe, and with --strict fails for them

`make -C paper` calls both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import ROOT

from . import paper_plots, paper_sources, paper_tables, paper_text, paper_values
from .paper_sources import Sources

PAPER = ROOT / "paper"
HEAD = "% Written by `python -m bench.reports.paper generate` from bench/results. Do not edit."


def numbers(sources: Sources) -> str:
    """numbers.tex: every number and flag by its key."""
    lines = [HEAD]
    for key, value in paper_values.values(sources).items():
        lines.append(rf"\ulpnumber{{{key}}}{{{value}}}" if value is not None else rf"\ulpmissing{{{key}}}")
    lines += [rf"\ulpflag{{{key}}}{{{int(on)}}}" for key, on in paper_values.flags(sources).items()]
    lines += [rf"\ulpcommand{{{name}}}{{{paper_values.code(command)}}}" for name, (_, _, command) in paper_plots.PLOTS.items()]
    return "\n".join(lines) + "\n"


def texts(sources: Sources) -> dict[str, str]:
    """Every generated file of text by its name in the build folder."""
    made = {f"table-{name}.tex": f"{HEAD}\n{text}" for name, text in paper_tables.tables(sources).items()}
    return made | {"numbers.tex": numbers(sources)}


def generate(sources: Sources, out: Path) -> None:
    """Write all of it to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts(sources).items():
        (out / name).write_text(text, encoding="utf-8")
    drawn = paper_plots.draw(sources, out)
    manifest = {"results": sources.digests(), "plots": drawn}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def outdated(sources: Sources, out: Path) -> list[str]:
    """Where a build folder is not what the result files say; nothing where there is none."""
    if not (out / "manifest.json").exists():
        return []
    found = [
        f"{out.name}/{name} is not what the result files say: python -m bench.reports.paper generate"
        for name, text in texts(sources).items()
        if not (out / name).exists() or (out / name).read_text(encoding="utf-8") != text
    ]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    if manifest["results"] != sources.digests():
        found.append(f"{out.name} was made from other result files: python -m bench.reports.paper generate")
    return found + [f"{out.name} lacks the plot {name}" for name in manifest["plots"] if not (out / f"{name}.pdf").exists()]


def check(sources: Sources, paper: Path, *, strict: bool) -> int:
    """Print what is wrong, and what is old; 1 if something is wrong, or old and `strict`."""
    keys = frozenset(paper_values.values(sources))
    wrong = paper_text.complaints(paper, keys) + outdated(sources, paper / "build")
    old = [age for age in paper_sources.ages(sources) if age.old]
    for text in wrong:
        print(text, file=sys.stderr)
    for age in old:
        print(
            f"{'old' if strict else 'warning: old'}: {age.what}.json of {age.date}, {age.commit[:10] or 'no commit'}: {age.words()}",
            file=sys.stderr,
        )
    print(f"{len(wrong)} complaints; {len(old)} of {len(paper_sources.ages(sources))} results are older than their sources")
    return 1 if wrong or (strict and old) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.reports.paper", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("generate", "check"))
    parser.add_argument("--results", type=Path, default=None, help="directory of the result files (default: bench/results)")
    parser.add_argument("--out", type=Path, default=PAPER / "build", help="where generate writes (default: paper/build)")
    parser.add_argument("--strict", action="store_true", help="check: fail for results that are older than their sources, too")
    args = parser.parse_args(arguments)
    sources = paper_sources.load(args.results)
    if args.command == "check":
        return check(sources, PAPER, strict=args.strict)
    generate(sources, args.out)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
