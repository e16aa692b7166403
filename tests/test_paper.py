"""The paper says what the result files say. No TeX and no plots: those are made by `make -C paper`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.reports import paper, paper_plots, paper_sources, paper_tables, paper_text, paper_values
from bench.runs import results
from bench.runs.results import Cell, Group, Result

PAPER = Path(__file__).resolve().parents[1] / "paper"
if not PAPER.exists():
    pytest.skip("a source distribution has no paper", allow_module_level=True)

ENVIRONMENT: dict[str, Any] = {
    "date": "2026-01-02T03:04:05+00:00", "command": "python -m bench run gemm", "commit": "0123456789abcdef", "dirty": False,
    "machine": {"cpu": "A CPU (R) 100%", "isa": ["avx2"]}, "os": "Linux", "ulp": {}, "packages": {},
}  # fmt: skip


def cell(name: str, kind: str, ns: float, bits: tuple[int, int] | None = None) -> Cell:
    return Cell(name, kind, bits, 512**3, 1000, 1, [ns, ns * 1.1, ns * 0.9], {"kernel": "mul8_avx2_3x32"})


def gemm(ulp_ns: float = 1e6) -> Result:
    cells = [
        cell("ulp W3A3", "ulp", ulp_ns, (3, 3)),
        cell("fast int8", "int8", 2e6),
        cell("QNNPACK", "int8", 4e6),
        cell("a fp32", "fp32", 5e6),
    ]
    checked = {"exact": False, "max_error": 1234.0, "wrong_share": 0.5, "step": 1.0}
    peers = {"fast int8": {"kind": "int8", "full_range": checked, "safe_range": checked | {"exact": True}}}
    return Result("gemm", ENVIRONMENT, {}, 3.0, peers, [Group("512x512x512", (512, 512, 512), cells)])


@pytest.fixture(scope="module")
def kept() -> paper_sources.Sources:
    return paper_sources.load()


@pytest.fixture
def sources(tmp_path: Path) -> paper_sources.Sources:
    results.save(gemm(), tmp_path)
    return paper_sources.load(tmp_path)


def test_the_other_machine_has_other_instructions(tmp_path: Path) -> None:
    def measured_on(folder: str, isa: tuple[str, ...]) -> Result:
        return replace(gemm(), environment=ENVIRONMENT | {"machine": {"cpu": folder, "isa": [*isa]}})

    for folder, isa in {".": ("avx2", "avx512f", "avx512_vnni"), "a": ("avx2", "avx_vnni"), "b": ("avx2",), "c": ("avx2",)}.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        results.save(measured_on(folder, isa), tmp_path / folder)
    assert paper_sources.load(tmp_path).other_name == "b"


def test_text_of_the_paper(kept: paper_sources.Sources) -> None:
    keys = frozenset(paper_values.values(kept))
    assert paper_text.complaints(PAPER, keys) == []


def test_numbers_come_from_the_samples(sources: paper_sources.Sources) -> None:
    values = paper_values.values(sources)
    assert values["gemm.W3A3.over.int8"] == r"2.00\ensuremath{\times}"
    assert values["gemm.W3A3.over.qnnpack"] == r"4.00\ensuremath{\times}"
    assert values["gemm.W3A3.over.exact"] is None
    assert values["gemm.W3A3.rate"] == "134"
    assert values["gemm.fastest.int8"] == "fast int8"
    assert values["gemm.cpu"] == r"A CPU  100\%"
    assert values["networks.W3A3.over.int8"] is None
    assert values["bound.mul8.W3A3"] == "585"
    assert paper_values.flags(sources)["has.gemm"]
    assert not paper_values.flags(sources)["has.conv"]


def test_bounds_are_those_that_the_kernels_assert(kept: paper_sources.Sources) -> None:
    values = paper_values.values(kept)
    kernels = PAPER.parent / "csrc" / "gemm"
    asserted = 0
    for key, file in (("mul8", "mul8_x86.h"), ("rowpair", "rowpair_avx2.cpp")):
        for a, b, steps in re.findall(r"spill_every\((\d), (\d)\) == (\d+)", (kernels / file).read_text(encoding="utf-8")):
            if a == b:
                assert values[f"bound.{key}.W{b}A{a}"] == steps
                asserted += 1
    assert asserted >= 8
    assert [values[f"bound.winograd.{pair}"] for pair in ("W3A3", "W4A4", "W4A5", "W3A6", "W4A6")] == ["16", "3", "1", "1", "0"]


def test_keys_do_not_depend_on_what_was_measured(kept: paper_sources.Sources, sources: paper_sources.Sources, tmp_path: Path) -> None:
    nothing = paper_sources.load(tmp_path / "empty")
    assert paper_values.values(nothing).keys() == paper_values.values(sources).keys() == paper_values.values(kept).keys()
    assert set(paper.texts(nothing)) == set(paper.texts(sources))
    assert r"\ulpmissing{gemm.W3A3.rate}" in paper.numbers(nothing)
    assert "Not measured" in paper_tables.tables(nothing)["gemm"]


def test_tables_have_rows_of_equal_length(kept: paper_sources.Sources, sources: paper_sources.Sources) -> None:
    for found in (sources, kept):
        for name, text in paper_tables.tables(found).items():
            widths = {line.count(" & ") for line in text.splitlines() if line.endswith(r"\\")}
            assert len(widths) <= 1, name


@pytest.mark.parametrize(
    "line",
    [
        "It runs at 134 GMAC/s.", "It takes 5.1~ms.", r"a speed-up of $1.5\times$", "it is 3 times faster", r"uses 12\,MB", r"40\,\% of it",
        "98.5 points", r"$2\times$ the speed", "at 3.2 GHz", r"the geometric mean is 1.77", "10 percent", "a 3x gain", "64 MiB",
        r"it needs 20\,\textmu s",
    ],
)  # fmt: skip
def test_measured_numbers_are_found(line: str) -> None:
    assert paper_text.literal_numbers(line)


@pytest.mark.parametrize(
    "line",
    [
        r"It runs at \N{gemm.W3A3.rate}\,GMAC/s.", r"\published{2.1}$\times$ gemmlowp", r"with \derived{2.25} times fewer products",
        "W3A3 on $512^3$", r"$31 \cdot 8 \le 255$", "8-bit lanes of 32 bytes", r"$8 \times 32$ codes",
        r"\cite{won22} and \texttt{mul8\_avx2\_3x32}", "panels of 32 columns",
        r"from 3 to 8 bits take the same time", r"$F(2{\times}2,3{\times}3)$", r"one row times $4096 \times 4096$",
    ],
)  # fmt: skip
def test_other_numbers_are_not(line: str) -> None:
    assert paper_text.literal_numbers(line) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (r"\N{gemm.W3A3.over.int8}", r"\N{gemm.W3A3.over.int9}", "no number is called"),
        (r"\N{gemm.W3A3.over.int8}", "1.53", "no result file backs"),
        (r"\IfHas{gemm}", r"\IfHas{germ}", "no result is called"),
        (r"\cite{won22}", r"\cite{won23}", "is not in ulp.bib"),
        (r"\emph{modelled}", "calculated", "does not say so"),
        (r"\Measured{pairs}", "", "on which machine"),
        (r"\PlotFigure{sizes}", r"\PlotFigure{size}", "no such plot"),
    ],
)
def test_what_the_check_finds(old: str, new: str, complaint: str, kept: paper_sources.Sources, tmp_path: Path) -> None:
    copy = tmp_path / "paper"
    shutil.copytree(PAPER, copy, ignore=shutil.ignore_patterns("build"))
    changed = 0
    for path in paper_text.files(copy):
        text = path.read_text(encoding="utf-8")
        changed += text.count(old)
        path.write_text(text.replace(old, new), encoding="utf-8")
    assert changed
    found = paper_text.complaints(copy, frozenset(paper_values.values(kept)))
    assert any(complaint in text for text in found), found


def test_generated_files_are_compared(sources: paper_sources.Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "build"
    assert paper.outdated(sources, out) == []  # nothing was generated
    monkeypatch.setattr(paper_plots, "draw", lambda _sources, _out: [])
    paper.generate(sources, out)
    assert paper.outdated(sources, out) == []
    results.save(gemm(ulp_ns=5e5), tmp_path)
    changed = paper_sources.load(tmp_path)
    assert any("numbers.tex" in text for text in paper.outdated(changed, out))
    assert any("other result files" in text for text in paper.outdated(changed, out))


@pytest.fixture
def repository(tmp_path: Path) -> Callable[[str], str]:
    def run(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.com", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if shutil.which("git") is None:
        pytest.skip("needs git")
    run("init", "--quiet")

    def commit(path: str) -> str:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / path).open("a", encoding="utf-8") as file:
            file.write("x\n")
        run("add", "--all")
        run("commit", "--quiet", "--message", path)
        return run("rev-parse", "HEAD")

    return commit


def test_age_counts_commits_to_the_sources(repository: Callable[[str], str], tmp_path: Path) -> None:
    measured = repository("csrc/gemm/gemm.cpp")
    one = Result("gemm", ENVIRONMENT | {"commit": measured}, {}, None, {}, [])
    sources = paper_sources.Sources(tmp_path, {"gemm": one}, {})
    assert paper_sources.ages(sources, tmp_path)[0].words() == "current"
    repository("docs/design.md")
    repository("csrc/gemm/mul8_neon.cpp")  # of another processor
    assert not paper_sources.ages(sources, tmp_path)[0].old
    repository("csrc/pack/pack.cpp")
    (age,) = paper_sources.ages(sources, tmp_path)
    assert (age.old, age.later, age.words()) == (True, 1, "1 later commit")
    unknown = Result("gemm", ENVIRONMENT | {"dirty": True}, {}, None, {}, [])
    (age,) = paper_sources.ages(paper_sources.Sources(tmp_path, {"gemm": unknown}, {}), tmp_path)
    assert age.words() == "commit not in this clone; local changes"


def test_strict_fails_for_old_results(sources: paper_sources.Sources, capsys: pytest.CaptureFixture[str]) -> None:
    assert paper.check(sources, PAPER, strict=False) in (0, 1)  # 1: a build folder of other results lies there
    assert "warning: old: gemm.json" in capsys.readouterr().err
    assert paper.check(sources, PAPER, strict=True) == 1
