"""The benchmarks as an instrument: what moved between two runs, runs that go on after an interruption, budgets, records, the doctor."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bench import ENVIRONMENT, EXACT, SATURATES

from bench import __main__ as cli
from bench.reports import documents, techniques
from bench.runs import ablation, compare, doctor, energy, options, parts, progress, records, results, timing
from bench.runs.session import Run

ROUNDS = 21


def _run(seed: int, *, slower: dict[str, float] | None = None, machine: float = 1.0) -> results.Result:
    """Sixteen cells of three groups as a noisy machine would time them: a spread of the rounds, and one between runs."""
    rng = np.random.default_rng(seed)
    groups = []
    for name in ("64x64x64", "256x256x256", "512x512x512"):
        weather = rng.uniform(1, 1.3, ROUNDS)  # what the machine does to all
        cells = []
        for i in range(16):
            kind, bits = ("ulp", (i % 8 + 1, i % 8 + 1)) if i < 8 else ("int8", None)
            label = f"ulp W{i + 1}A{i + 1}" if i < 8 else f"peer {i}"
            own = (slower or {}).get(label, 1.0) * machine * rng.normal(1, 0.01) * 1e5 * (i + 1)
            ns = list(own * weather * rng.lognormal(0, 0.04, ROUNDS))
            cells.append(results.Cell(label, kind, bits, 512**3, 0, 1, ns, {"check": EXACT}))
        groups.append(results.Group(name, (512, 512, 512), cells))
    peers = {f"peer {i}": {"kind": "int8", "version": "1", "note": "", "safe_range": EXACT, "full_range": SATURATES} for i in range(8, 16)}
    return results.Result("gemm", ENVIRONMENT, {}, 3.0, peers, groups)


def test_two_runs_of_one_commit_report_no_moved_cell() -> None:
    for seed in range(0, 60, 2):
        assert compare.compare(_run(seed), _run(seed + 1)).moved == []
    assert compare.compare(_run(1), _run(2, machine=1.7)).moved == []  # slower for all is not slower


def test_a_cell_that_moved_is_found_with_its_size() -> None:
    for seed in range(0, 20, 2):
        found = compare.compare(_run(seed), _run(seed + 1, slower={"ulp W3A3": 1.25, "ulp W5A5": 0.8}, machine=1.4))
        assert {shift.name for shift in found.moved} == {"ulp W3A3", "ulp W5A5"}
        assert len(found.moved) == 6
        for shift in found.moved:
            expected = 1.25 if shift.name == "ulp W3A3" else 0.8
            assert shift.times == pytest.approx(expected, rel=0.07)
            assert ("slower" in shift.words()) == (expected > 1)


def test_compare_says_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = _run(0), _run(1)
    del b.groups[0]
    b.groups[0].cells[3] = dataclasses.replace(b.groups[0].cells[3], name="ulp new")
    b.peers["peer 9"]["version"] = "2"
    found = compare.compare(a, b)
    assert found.only == ["64x64x64 (in the first file only)", "256x256x256: ulp W4A4", "256x256x256: ulp new"]
    assert found.notes == ["other versions of peer 9: not used as a measure of noise"]
    with pytest.raises(compare.CompareError, match=r"one file is of gemm, the other of conv"):
        compare.compare(a, dataclasses.replace(b, what="conv"))
    with pytest.raises(compare.CompareError, match="no cell in common"):
        compare.compare(a, dataclasses.replace(a, groups=[]))
    first, second = results.save(a, tmp_path / "a"), results.save(_run(1, slower={"ulp W1A1": 2.0}), tmp_path / "b")
    assert cli.main(["compare", str(first), str(second), "--fail"]) == 1
    assert "3 moved" in (told := capsys.readouterr().out)
    assert "x slower" in told
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert cli.main(["compare", str(first), str(tmp_path)]) == 1
    assert "compare two files or two directories" in capsys.readouterr().err


def _contestant(name: str, called: list[str]) -> timing.Contestant:
    return timing.Contestant(name, "ulp", lambda: called.append(name), 1, cold=True)


def test_an_interrupted_run_goes_on_and_one_of_another_commit_does_not(tmp_path: Path) -> None:
    given = options.Options(["run", "small"], rounds=1, directory=tmp_path)
    called: list[str] = []
    first = Run(given, "small")
    first.plan(["a", "b"])
    assert first.wants("a")
    first.measure("a", (1, 1, 1), [_contestant("a", called)])
    assert [path.name for path in (tmp_path / parts.FOLDER).iterdir()] == ["small.json"]  # as it would be found after an interruption

    def again(changed: options.Options) -> list[str]:
        run = Run(changed, "small")
        run.plan(["a", "b"])
        return [name for name in ("a", "b") if run.wants(name)]

    assert again(given) == ["a", "b"]
    on = dataclasses.replace(given, resume=True)
    assert again(on) == ["b"]
    assert again(dataclasses.replace(on, sizes=(7,))) == ["a", "b"]
    raw = json.loads((tmp_path / parts.FOLDER / "small.json").read_text())
    raw["environment"]["commit"] = "another"
    (tmp_path / parts.FOLDER / "small.json").write_text(json.dumps(raw))
    assert again(on) == ["a", "b"]
    parts.finish("small", tmp_path)
    assert not (tmp_path / parts.FOLDER).exists()


def test_no_group_starts_when_the_time_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "gemm", "--quick", "--peers", "none", "--out", str(tmp_path), "--minutes", "0"]
    assert cli.main(command) == 0
    assert "2 groups were left out for want of time, --resume measures them: 64x64x64, 128x128x128" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert cli.main([*command[:-2], "--minutes", "-1"]) == 1
    assert "cannot be negative" in capsys.readouterr().err


def test_time_left_follows_an_earlier_run_and_how_fast_this_one_is() -> None:
    shown = progress.Progress("gemm", ("a", "b", "c"), {"a": 10.0, "b": 20.0, "c": 30.0})
    assert shown.seconds_left() == 60.0
    shown.spent["a"] = 20.0
    shown.skip("a")
    assert shown.seconds_left() == 100.0
    assert shown.title("b") == "gemm 2/3 b, about 2 min left"
    assert progress.Progress("gemm", ("a", "b")).seconds_left() is None


def test_quick_run_claims_no_speed_and_leaves_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "ablation", "--quick", "--rounds", "1", "--out", str(tmp_path)]) == 0
    assert "0 inexact" in (told := capsys.readouterr().out)
    assert "GMAC" not in told
    assert " us" not in told
    result = results.load(tmp_path / "ablation.json")
    skipped = {one["technique"] for one in result.settings["not_run"]}
    assert {g.name for g in result.groups} | skipped == {one.name for one in ablation.TECHNIQUES}
    assert all(techniques.roles(g) for g in result.groups)
    assert cli.main(["records", "--results", str(tmp_path)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 2 * len(result.groups)
    assert {one["exact"] for one in found} <= {True}
    assert cli.main(["records", "--results", str(tmp_path), "--csv"]) == 0
    assert capsys.readouterr().out.startswith("basis,what,group,shape,bits,contestant,")


def test_records_say_what_was_measured_and_how_wrong_it_was() -> None:
    result = _run(0)
    one = next(r for r in records.of(result) if r["contestant"] == "peer 8")
    assert (one["basis"], one["version"], one["exact"], one["largest_error"], one["largest_error_full_range"]) == (
        "measured",
        "1",
        True,
        0,
        9216,
    )
    assert one["rounds"] == ROUNDS
    assert one["p10_ns"] < one["median_ns"] < one["p90_ns"]
    raw = {
        "shape": [2, 2, 2], "peers": ["sdot"], "cores": {"core": {"ghz": 2.0, "model": "a model", "isas": ["neon"]}},
        "products": {"core": {"mul8_neon_3x32": {"W3A3": 0.25}, "sdot": {"W8A8": 0.5}}},
        "environment": {"compiler": "gcc", "commit": "c", "date": "d", "dirty": False, "command": "python -m bench model"},
    }  # fmt: skip
    ours, theirs = records.of_modelled(raw)
    assert (ours["basis"], ours["bits"], ours["median_ns"], ours["gmacs"]) == ("modelled", "W3A3", 1.0, 8.0)
    assert theirs["kind"] == "int8"


def test_energy_is_read_where_it_is_and_wraps(tmp_path: Path) -> None:
    assert "no RAPL counters" in str(energy.why_unavailable(tmp_path))
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, in it already
    (package / "max_energy_range_uj").write_text("1000000\n")
    (package / "energy_uj").write_text("999000\n")
    assert energy.why_unavailable(tmp_path) is None
    assert energy.per_call(lambda: (package / "energy_uj").write_text("1000\n"), 0.0, tmp_path) == pytest.approx(2e-3)


def test_doctor_names_what_makes_a_machine_unfit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    governor = tmp_path / "cpu0" / "cpufreq" / "scaling_governor"
    assert doctor.governor(tmp_path).fit is None
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n")
    assert doctor.governor(tmp_path) == doctor.Finding(False, "governor: powersave; cpupower frequency-set -g performance")
    governor.write_text("performance\n")
    assert doctor.governor(tmp_path).fit
    (tmp_path / "intel_pstate").mkdir()
    (tmp_path / "intel_pstate/no_turbo").write_text("1")
    assert doctor.turbo(tmp_path).words == "turbo: off"
    monkeypatch.setattr("bench.peers.ALL", ())  # some are asked by importing them
    monkeypatch.setattr("bench.peers.FAMILIES", {})
    fit = cli.main(["doctor", "--seconds", "0.1"])
    told = capsys.readouterr().out
    assert told.rstrip().endswith("fit to measure" if fit == 0 else "reasons above")
    assert "other processes at work" in told or "not shown" in told


def test_missing_peer_comes_with_one_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.peers.xnnpack import Xnnpack

    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert Xnnpack().how_to_get() == "pip install ai-edge-litert"


def _paper(kinds: dict[str, tuple[str, float, dict[str, Any]]]) -> results.Result:
    cells = [
        results.Cell(name, kind, (3, 3) if kind in ("ulp", "technique") else None, 512**3, 0, 1, [ns] * 3, info)
        for name, (kind, ns, info) in kinds.items()
    ]
    return results.Result("paper", ENVIRONMENT, {}, None, {}, [results.Group("W3A3 512x512x512", (512, 512, 512), cells)])


def test_published_figures_stand_beside_measured_ones() -> None:
    paper = _paper(
        {
            "ulp W3A3": ("ulp", 1e6, {"kernel": "dot"}),
            "ulppack_p1_avx2_3x32": ("technique", 4e6, {"technique": "ulppack_p1"}),
            "bitserial_avx2_2x32": ("technique", 8e6, {"technique": "bitserial"}),
            "gemmlowp": ("int8", 6e6, {}),
            "QNNPACK": ("int8", 12e6, {}),
        }
    )
    table = techniques.published_table(paper, None)
    assert [row[:2] for row in table.rows] == [
        ("W3A3 over gemmlowp", "2.1x"), ("W3A3 over QNNPACK", "1.8x"), ("W3A3 over bit-serial in ulp (bitserial_avx2_2x32)", "2.7x"),
    ]  # fmt: skip
    assert [row[2].split()[0] for row in table.rows] == ["1.50x", "3.00x", "2.00x"]
    assert [row[3].split()[0] for row in table.rows] == ["6.00x", "12.00x", "8.00x"]
    assert "Quoted, not measured" in table.note
    assert "Products of the ULPPACK paper" in documents.full_report(documents.Sources({"paper": paper}))


def test_every_new_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.reports import more_plots

    gemm, gemv = _run(0), copy.deepcopy(_run(1))
    gemm.groups[2].cells.append(results.Cell("ceiling mul8", "ceiling", None, 512**3, 0, 1, [1e5] * ROUNDS, {}))
    read = results.Cell("read 2 bit", "ceiling", None, 0, 65536, 1, [1e4] * ROUNDS, {})
    gemv.groups[:] = [results.Group("1x512x512 cold", (1, 512, 512), [*gemv.groups[0].cells, read])]
    made = [results.Cell(f"{role}: x", "ulp", (3, 3), 1, 0, 1, [t] * 3, {"role": role}) for role, t in (("with", 1e5), ("without", 9e5))]
    steps = [
        results.Cell(
            f"{i} conv", "ulp", (3, 3), 9, 0, 1, [1e3 * (i + 1)] * 3, {"layer": f"l{i}", "step": "conv", "kernel": "dot", "shape": [7]}
        )
        for i in range(30)
    ]
    scores = [
        results.Cell(name, kind, bits, 0, 0, 1, [1e5] * 3, {"accuracy": 90.0, "metric": "% right"})
        for name, kind, bits in (
            ("float in onnxruntime", "fp32", None),
            ("W3A3", "ulp", (3, 3)),
            ("auto", "ulp", None),
            ("ort", "int8", None),
        )
    ]
    every = {"gemm": gemm, "gemv": dataclasses.replace(gemv, what="gemv")}
    for what, name, cells in (("ablation", "lookup", made), ("layers", "net", steps), ("quantize", "digits, avx2", scores)):
        every[what] = results.Result(what, ENVIRONMENT, {}, None, {}, [results.Group(name, (1, 1, 1), cells)])
    drawn = more_plots.draw(every, tmp_path)
    assert [path.name for path in drawn] == ["roofline.png", "ablation.png", "layers_net.png", "accuracy_digits__avx2.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert any(t.title == "Steps of net, one core" for t in documents.tables(every))


def test_documents_say_what_the_results_say() -> None:
    """`python -m bench report` brings them up to date."""
    if not any(results.DIRECTORY.glob("*.json")):
        pytest.skip("no bench/results here")
    root = results.DIRECTORY.parents[1]
    sources = documents.read(results.DIRECTORY)
    assert documents.outdated(root / "README.md", root / documents.PERFORMANCE, sources, root / documents.CHOOSING) == []


def test_results_of_other_machines_have_sections_of_their_own(tmp_path: Path) -> None:
    for name, isa in ((".", ["avx2"]), ("server", ["avx2", "avx512_vnni"]), ("quick", ["sse2"])):
        one = copy.deepcopy(_run(0))
        one.environment["machine"] = {**ENVIRONMENT["machine"], "isa": isa}  # type: ignore[dict-item]
        results.save(one, tmp_path / name)
    sources = documents.read(tmp_path)
    assert set(sources.others) == {"server"}
    section = documents.readme_section(sources.results, sources.others)
    assert [line for line in section.splitlines() if line.startswith("**")] == [
        "**512x512x512, AVX2 without VNNI**", "**512x512x512, AVX-512 with VNNI**",
    ]  # fmt: skip
    assert "### On another machine: Test CPU, AVX-512 with VNNI" in documents.performance_section(sources.results, sources.others)
    assert "## On another machine: Test CPU, AVX-512 with VNNI (server)" in documents.full_report(sources)
