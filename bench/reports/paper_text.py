"""What the text of the paper must keep: measured numbers come from the result files, keys and references exist, models are labelled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .paper_plots import PLOTS
from .paper_sources import DEPENDS
from .paper_tables import TABLES

# What may hold numbers: keys and generated numbers, references, names of files and kernels, lengths, and two marked kinds. \published{..}
# is quoted from the work that is cited beside it, \derived{..} follows from the arithmetic in the text.
_OPAQUE = re.compile(
    r"\\(?:N|IfNumber|IfHas|IfVnni|published|derived|cite|ref|label|input|url|texttt|vspace|hspace|setlength|usepackage|documentclass|bibliography\w*)"
    r"(?:\[[^\]]*\])?\{[^{}]*\}(?:\{[^{}]*(?:pt|em|mm)\})?"
)
_COMMENT = re.compile(r"(?<!\\)%.*")
_UNITS = (
    r"GMAC|MAC/|MACs per|ms\b|milliseconds?|microseconds?|seconds?\b|\\textmu|\\mu|us\b|ns\b|[kMG]i?B\b|GB/s|bytes/s|GHz|MHz|TOPS|"
    r"\\%|percent|points?\b|times\s+(?:faster|slower|the|as|over)|x\b|-fold|cycles?\b"
)
_DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*[a-z])")
_MEASURE = re.compile(rf"(?<![\w.^{{]){{1}}\d[\d,{{}}]*\$?(?:\\[,;: ]|~|\s|-)*(?:{_UNITS})".replace("{1}", ""))
_RATIO = re.compile(r"\d\s*\\times(?!\s*\d|\s*[A-Za-z(])")
# In ulp.tex the argument of a definition, #1, is none.
_KEY = re.compile(r"\\(?:N|IfNumber)\{([^}#]*)\}")
_RESULT = re.compile(r"\\If(?:Has|Vnni)\{([^}#]*)\}")
_FLOAT = re.compile(r"\\(PlotFigure|TableFigure|WideTable)\{(\w+)\}\{")
_MODELLED = frozenset({"modelled"})


def files(paper: Path) -> list[Path]:
    """The text: ulp.tex and its sections."""
    return [paper / "ulp.tex", *sorted((paper / "sections").glob("*.tex"))]


def _places(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        yield number, _COMMENT.sub("", line)


def literal_numbers(line: str) -> list[str]:
    """What looks like a measured number in a line of text: decimals, and numbers with a unit of time, rate, size, share or speed-up."""
    bare = line
    while (shorter := _OPAQUE.sub(" ", bare)) != bare:
        bare = shorter
    return [match.group() for pattern in (_DECIMAL, _MEASURE, _RATIO) for match in pattern.finditer(bare)]


def _argument(text: str, start: int) -> str:
    """The argument that begins behind the brace at `start` - 1."""
    depth, at = 1, start
    while depth and at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[start : at - 1]


def _floats(text: str) -> Iterator[tuple[str, str, str]]:
    """(macro, name, caption) of every plot and table."""
    for match in _FLOAT.finditer(text):
        yield match.group(1), match.group(2), _argument(text, match.end())


def complaints(paper: Path, keys: frozenset[str]) -> list[str]:
    """Everything that is wrong with the text; keys: those of the generated numbers."""
    found: list[str] = []
    cited: set[str] = set()
    whole = ""
    for path in files(paper):
        for number, line in _places(path):
            where = f"{path.relative_to(paper)}:{number}"
            if path.name != "ulp.tex":
                found += [f"{where}: {text.strip()!r} is a number that no result file backs" for text in literal_numbers(line)]
            found += [f"{where}: no number is called {key!r}" for key in _KEY.findall(line) if key not in keys]
            found += [f"{where}: no result is called {what!r}" for what in _RESULT.findall(line) if what not in {*DEPENDS, "other"}]
            for names in re.findall(r"\\cite\{([^}]*)\}", line):
                cited.update(name.strip() for name in names.split(","))
        whole += "\n".join(line for _, line in _places(path)) + "\n"
    for macro, name, caption in _floats(whole):
        table = TABLES.get(name) if macro != "PlotFigure" else None
        plot = PLOTS.get(name) if macro == "PlotFigure" else None
        if not table and not plot:
            found.append(f"\\{macro}{{{name}}}: there is no such plot or table")
            continue
        of = (table or plot or (None, ()))[1]
        if _MODELLED & set(of) and "modelled" not in caption.lower():
            found.append(f"\\{macro}{{{name}}}: its figures are modelled, and its caption does not say so")
        if of and not re.search(r"\\Measured(?:There)?\{|modelled", caption):
            found.append(f"\\{macro}{{{name}}}: its caption does not say on which machine it was measured")
    entries = set(re.findall(r"^@\w+\{([^,]+),", (paper / "ulp.bib").read_text(encoding="utf-8"), re.MULTILINE))
    found += [f"\\cite{{{name}}} is not in ulp.bib" for name in sorted(cited - entries)]
    found += [f"ulp.bib has {name}, which nothing cites" for name in sorted(entries - cited)]
    return found
