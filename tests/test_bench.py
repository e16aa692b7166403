"""The benchmarks' statistics, result files, report and adapters: what a figure in the README rests on."""

from __future__ import annotations

import copy
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import __main__ as cli
from bench import peers
from bench.peers import ceiling, native
from bench.peers.base import requantization_step, requantized
from bench.reports import documents, products
from bench.runs import machine, results, timing
from bench.subjects import operands
from bench.subjects.interface import compare
from ulp import _core

ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m bench run gemm",
    "commit": "0123456789abcdef",
    "dirty": False,
    "machine": {"cpu": "Test CPU", "family": "", "architecture": "x86_64", "cores": 2, "caches": {"L2": "512K"}, "isa": ["avx2"]},
    "os": "Test OS",
    "python": "3.11",
    "ulp": {"version": "0", "compiler": "test compiler"},
    "packages": {"numpy": "2.0"},
}
SATURATES = {"exact": False, "max_error": 9.0, "wrong_share": 0.5, "step": 1024.0}
EXACT = {"exact": True, "max_error": 0.0, "wrong_share": 0.0, "step": 1.0}


def _cell(name: str, kind: str, ns: list[float], bits: tuple[int, int] | None = None, macs: int = 512**3, nbytes: int = 0) -> results.Cell:
    return results.Cell(name, kind, bits, macs, nbytes, 1, ns, {"kernel": "mul8_avx2_3x32"} if kind == "ulp" else {})


def _synthetic(what: str = "gemm") -> results.Result:
    shape = (512, 512, 512)
    cells = [
        _cell("ulp W3A3", "ulp", [1.0e6, 1.1e6, 2.0e6], (3, 3)),
        _cell("ulp W2A8", "ulp", [1.0e6, 1.0e6, 1.0e6], (8, 2)),
        _cell("FBGEMM", "int8", [2.0e6, 2.2e6, 4.0e6]),
        _cell("QNNPACK", "int8", [8.0e6, 8.8e6, 16.0e6]),
        _cell("numpy fp32", "fp32", [3.0e6, 3.0e6, 3.0e6]),
        _cell("ceiling mul8", "ceiling", [0.9e6, 0.9e6, 0.9e6]),
    ]
    record = {"kind": "int8", "note": "", "safe_range": EXACT, "full_range": EXACT}
    known = {"QNNPACK": record, "FBGEMM": {**record, "full_range": SATURATES}}
    small = results.Group("64x64x64", (64, 64, 64), [_cell(c.name, c.kind, c.ns, c.bits, 64**3) for c in cells])
    return results.Result(what, ENVIRONMENT, {"quick": False}, 3.2, known, [small, results.Group("512x512x512", shape, cells)])


def test_summary_of_known_values() -> None:
    assert timing.summarise([5.0]) == timing.Summary(5.0, 5.0, 5.0)
    assert timing.summarise(list(range(1, 12))) == timing.Summary(6.0, 2.0, 10.0)
    with pytest.raises(ValueError, match="no samples"):
        timing.summarise([])


def test_speedup_is_taken_within_each_round() -> None:
    # The machine slows down tenfold between rounds; within each, one is twice as fast as the other.
    assert timing.speedup([1.0, 10.0, 100.0], [2.0, 20.0, 200.0]) == timing.Summary(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="2 rounds beside 1"):
        timing.speedup([1.0, 2.0], [1.0])


def test_rate_is_macs_per_nanosecond() -> None:
    assert timing.gmacs(1000, [10.0]).median == 100.0


def test_measure_alternates_and_rotates() -> None:
    calls: list[str] = []

    def contestant(name: str) -> timing.Contestant:
        def run() -> None:
            calls.append(name)
            time.sleep(0.001)

        return timing.Contestant(name, "info", run, 1, cold=True)

    samples = timing.measure([contestant(n) for n in "abc"], rounds=3, clock="wall")
    assert "".join(calls) == "abcbcacab"
    assert all(len(s.ns) == 3 and s.repeats == 1 and min(s.ns) >= 1e6 for s in samples.values())


def test_measure_fills_the_sample_and_prepares_before_each() -> None:
    prepared: list[int] = []
    quick = timing.Contestant("quick", "info", lambda: sum(range(100)), 1, before=lambda: prepared.append(1))
    samples = timing.measure([quick], rounds=2, min_sample_ns=1_000_000)["quick"]
    assert samples.repeats > 50
    assert len(prepared) == 3  # the calibration and two rounds


def test_measure_refuses_work_in_another_thread() -> None:
    def elsewhere() -> None:
        worker = threading.Thread(target=lambda: sum(range(1_000_000)))
        worker.start()
        worker.join()

    cheat = timing.Contestant("cheat", "info", elsewhere, 1, cold=True)
    with pytest.raises(timing.ForeignThreadError, match="cheat spent"):
        timing.measure([cheat], rounds=2)


def test_measure_refuses_bad_arguments() -> None:
    one = timing.Contestant("same", "info", lambda: None, 1)
    with pytest.raises(ValueError, match="rounds is 0"):
        timing.measure([one], rounds=0)
    with pytest.raises(ValueError, match="unique"):
        timing.measure([one, one], rounds=1)


def test_pinned_names_a_core_that_is_not_there() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this OS has no affinity")
    with pytest.raises(ValueError, match="core 99999 is not among"), timing.pinned(99999):
        pass


@pytest.mark.parametrize("bits", range(1, 9))
def test_operands_fill_their_interval(bits: int) -> None:
    a, b = operands.activations(64, 64, bits), operands.weights(64, 64, bits)
    assert str(a.dtype) == "uint8"
    assert str(b.dtype) == "int8"
    assert set(a.ravel().tolist()) == set(range(2**bits))
    expected = {-1, 1} if bits == 1 else set(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    assert set(b.ravel().tolist()) == expected


def test_reference_is_the_int64_product_at_the_extremes() -> None:
    a, b = np.full((2, 999), 255, np.uint8), np.full((999, 3), -128, np.int8)
    np.testing.assert_array_equal(operands.reference(a, b), a.astype(np.int64) @ b.astype(np.int64))


def test_compare_says_how_wrong() -> None:
    expected = np.array([[1, 2], [3, 4]])
    assert compare(expected, expected).words() == "exact"
    wrong = compare(expected + np.array([[0, 0], [0, -7]]), expected)
    assert (wrong.exact, wrong.max_error, wrong.wrong_share) == (False, 7.0, 0.25)
    assert wrong.words() == "wrong by up to 7 (25.0% of elements)"
    assert "3 of 255 output levels, about 48 in the accumulator" in compare(expected + 3, expected, 16.0).words()
    assert not compare(np.array([np.nan]), np.array([1])).exact
    with pytest.raises(ValueError, match="shape"):
        compare(expected, expected[:1])


def test_requantized_rounds_half_to_even_and_clamps() -> None:
    accumulators = np.array([-100000, -3, -1, 0, 1, 3, 5, 100000], np.int64)
    np.testing.assert_array_equal(requantized(accumulators, 2.0), [0, 126, 128, 128, 128, 130, 130, 255])
    assert requantization_step(np.array([127])) == 1.0
    assert requantization_step(np.array([-128])) == 2.0
    assert requantization_step(np.array([0])) == 1.0


@pytest.mark.parametrize("peer", peers.ALL, ids=lambda peer: str(peer.name))
@pytest.mark.filterwarnings("default")  # the peers' own deprecations are not ours to fail on
def test_peer_is_as_exact_as_it_claims(peer: type[peers.Peer]) -> None:
    contestant = peer()
    reason = contestant.why_unavailable()
    if reason is not None:
        assert any(hint in reason for hint in ("pip install", "apt-get install", "g++", "engine", "compile")), reason
        pytest.skip(f"{contestant.name}: {reason}")
    assert contestant.version()
    m, n, k = 5, 24, 128
    a, b = operands.activations(m, k, 7), operands.weights(k, n, 8)
    assert a.max() <= contestant.max_activation
    verdict = peers.check(contestant, a, b)
    assert verdict.exact or contestant.kind == "info", verdict.words()
    if contestant.exact:
        full = np.full((m, k), 255, np.uint8)
        assert peers.check(contestant, full, np.full((k, n), -128, np.int8)).exact
        assert peers.check(contestant, full, np.full((k, n), 127, np.int8)).exact


def test_missing_package_is_named() -> None:
    class Missing(peers.base.Peer):
        name, kind, exact, max_activation, output = "missing", "info", False, 127, "int32"
        packages = ("no_such_package_of_a_peer",)

        def prepare(self, a: operands.U8, b: operands.S8) -> Any: ...
        def run(self, state: Any) -> object: ...
        def result(self, state: Any) -> Any: ...

    assert Missing().why_unavailable() == "not installed: pip install no_such_package_of_a_peer"
    with pytest.raises(ValueError, match=r"unknown peers \['nobody'\]; known are .*FBGEMM"):
        peers.named(["nobody"])


def test_ceilings_are_of_the_order_of_the_clock() -> None:
    if reason := ceiling.why_unavailable():
        pytest.skip(f"core ceilings: {reason}")
    core = ceiling.Ceiling()
    ghz = core.cycles_per_ns(20_000)
    assert 0.5 < ghz < 7
    for technique in ceiling.MACS_PER_STEP:
        run, macs = core.loop(technique, 100)
        best = min(timing.measure([timing.Contestant("loop", "ceiling", run, macs)], rounds=3, min_sample_ns=100_000)["loop"].ns)
        assert 0.2 < macs / best / ghz / ceiling.MACS_PER_STEP[technique] < 4  # vector steps per cycle
    run, nbytes = core.read(100_000)
    assert nbytes == 100_000 // 256 * 256
    run()


def test_ceiling_of_a_kernel() -> None:
    assert ceiling.of_kernel("mul8", "avx2", 3, 3) == ceiling.RowCeiling("mul8", 1.0)
    assert ceiling.of_kernel("mul16", "avx2", 8, 8) == ceiling.RowCeiling("mul8", 2.0)
    assert ceiling.of_kernel("lut", "avx2", 8, 2) == ceiling.RowCeiling("lut", 2.0)
    assert ceiling.of_kernel("bitserial", "avx2", 2, 3) == ceiling.RowCeiling("bitserial", 6.0)
    assert ceiling.of_kernel("ulppack_p1", "avx2", 2, 2) == ceiling.RowCeiling("ulppack_p1", 1.0)
    assert ceiling.of_kernel("rowpair", "avx2", 1, 1) == ceiling.RowCeiling("mul8", 0.5)
    assert ceiling.of_kernel("mul8", "baseline", 3, 3) is None
    assert ceiling.of_kernel("new", "avx2", 3, 3) is None


def test_every_technique_with_avx2_kernels_has_a_ceiling_but_stream() -> None:
    """Which is bound by memory."""
    techniques = {k["technique"] for k in _core.kernels() if k["isa"] == "avx2"}
    assert {t for t in techniques if ceiling.of_kernel(t, "avx2", 1, 1) is None} <= {"stream"}


def test_missing_compiler_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    with pytest.raises(native.BuildError, match=r"install g\+\+ or set CXX"):
        native.load("ceiling.cpp", ("-DNEVER_BUILT",))


def test_result_file_comes_back_as_it_was(tmp_path: Path) -> None:
    result = _synthetic()
    path = results.save(result, tmp_path)
    assert path.name == "gemm.json"
    assert results.load(path) == result
    assert results.load_all(tmp_path) == {"gemm": result}
    assert json.loads(path.read_text())["schema"] == results.SCHEMA


def test_environment_fits_the_schema_and_names_no_place() -> None:
    environment = machine.describe(["run", "gemm"])
    raw = results.to_json(results.Result("gemm", environment, {}, None, {}, []))
    assert results.from_json(json.loads(json.dumps(raw))).environment["command"] == "python -m bench run gemm"
    assert str(Path(__file__).resolve().parents[1]) not in json.dumps(raw)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 0, "schema 0; this version reads"),
        (("what",), "gem", "'what' is 'gem'"),
        (("environment", "machine"), None, "environment lacks 'machine'"),
        (("groups", 0, "cells", 0, "ns"), [], "must hold positive times"),
        (("groups", 0, "cells", 0, "ns"), [1.0], "different numbers of rounds"),
        (("groups", 0, "cells", 0, "bits"), [9, 1], "not two widths of 1 to 8"),
        (("groups", 0, "cells", 0, "macs"), "many", "'macs' is str"),
    ],
)
def test_broken_result_file_is_refused(tmp_path: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    raw: Any = json.loads(results.save(_synthetic(), tmp_path).read_text())
    at = raw
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    (tmp_path / "gemm.json").write_text(json.dumps(raw))
    with pytest.raises(results.SchemaError, match=message):
        results.load(tmp_path / "gemm.json")


def test_speed_table_says_what_the_rounds_say() -> None:
    result = _synthetic()
    table = products.speed_table(result, result.groups[1])
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row[""] == "W3A3"
    assert row["over QNNPACK"] == "8.00x [8.00-8.00]"
    assert row["over gemmlowp"] == "-"
    assert row["over the fastest int8 (FBGEMM)"] == "2.00x [2.00-2.00]"
    assert row["over the fastest exact int8 (QNNPACK)"] == "8.00x [8.00-8.00]"
    assert row["over the fastest FP32 (numpy fp32)"].startswith("2.73x")
    assert row["GMAC/s"] == "122 (132)"
    assert len(set(map(len, table.text().splitlines()[1:4]))) == 1


def _report_command(directory: Path) -> list[str]:
    documents_of = ("--readme", str(directory / "README.md"), "--performance", str(directory / "performance.md"))
    return ["report", "--results", str(directory), *documents_of]


def test_report_writes_checks_and_rewrites_the_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, performance = tmp_path / "README.md", tmp_path / "performance.md"
    before, after = "# Title\n\ntext \\1\n\n", "\n\nmore text\n"
    for document in (readme, performance):
        document.write_text(f"{before}{documents.BEGIN}\nold\n{documents.END}{after}")
    results.save(_synthetic(), tmp_path)
    command = _report_command(tmp_path)
    assert cli.main([*command, "--check"]) == 1
    told = capsys.readouterr().err
    assert "README.md does not say what the results say" in told
    assert "performance.md does not say what the results say" in told
    assert cli.main([*command, "--no-plots"]) == 0
    for document in (readme, performance):
        text = document.read_text()
        assert text.startswith(before)
        assert text.endswith(after)
        assert "| W3A3 |" in text
        assert "Test CPU" in text
    assert "wrong by up to 9 of 255" in performance.read_text()
    assert cli.main([*command, "--check"]) == 0
    for document in (readme, performance):
        right = document.read_text()
        document.write_text(right.replace("| W3A3 | 1", "| W3A3 | 9"))
        assert document.read_text() != right
        assert cli.main([*command, "--check"]) == 1
        document.write_text(right)
    slower = copy.deepcopy(_synthetic())
    slower.groups[1].cells[0].ns[:] = [9e6, 9e6, 9e6]
    results.save(slower, tmp_path)
    assert cli.main([*command, "--check"]) == 1


def test_readme_has_one_row_per_usual_pair() -> None:
    """Everything else is in docs/performance.md."""
    result = _synthetic()
    square = result.groups[1]
    for bits, ns in {(1, 1): 0.5e6, (8, 8): 4e6}.items():
        square.cells.append(_cell(f"ulp W{bits[1]}A{bits[0]}", "ulp", [ns] * 3, bits))
    lines = documents.readme_section({"gemm": result}).splitlines()
    header = next(line for line in lines if line.startswith("|"))
    assert header == "|  | GMAC/s | over the fastest int8 | over QNNPACK | over gemmlowp | over the fastest FP32 |"
    assert [line for line in lines if line.startswith("| W")] == [
        "| W1A1 | 268 | 4.4x | 17.6x | - | 6.0x |",
        "| W3A3 | 122 | 2.0x | 8.0x | - | 2.7x |",
        "| W8A8 | 34 | 0.6x | 2.2x | - | 0.8x |",
    ]
    assert "the fastest int8 is FBGEMM, 61 GMAC/s; the fastest FP32 is numpy fp32, 45 GMAC/s" in lines[-1]
    with pytest.raises(documents.ReportError, match="bench run gemm"):
        documents.readme_section({"small": result})


def test_report_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, performance = tmp_path / "README.md", tmp_path / "performance.md"
    command = [*_report_command(tmp_path), "--check"]
    assert cli.main(command) == 1
    assert "no README.md" in capsys.readouterr().err
    readme.write_text("no markers")
    assert cli.main(command) == 1
    assert "no result file of products" in capsys.readouterr().err
    results.save(_synthetic(), tmp_path)
    assert cli.main(command) == 1
    assert f"README.md needs one line {documents.BEGIN}" in capsys.readouterr().err
    readme.write_text(f"{documents.BEGIN}\n{documents.END}")
    assert cli.main(command) == 1
    assert "no performance.md" in capsys.readouterr().err
    performance.write_text(f"{documents.END}\n{documents.BEGIN}")
    assert cli.main(command) == 1
    assert f"performance.md needs one line {documents.BEGIN}" in capsys.readouterr().err


def test_every_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.reports import plots

    gemv = _synthetic("gemv")
    gemv.groups[:] = [
        results.Group("1x512x512", (1, 512, 512), [*gemv.groups[1].cells, _cell("read 2 bit", "ceiling", [1e5] * 3, macs=0, nbytes=65536)])
    ]
    drawn = plots.draw({"gemm": _synthetic(), "pairs": _synthetic("pairs"), "gemv": gemv}, tmp_path)
    assert [p.name for p in drawn] == ["size.png", "pairs.png", "pairs.png", "gemv_1.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in drawn)


def test_command_line_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "gemm", "--peers", "nobody"]) == 1
    assert "known are" in capsys.readouterr().err
    assert cli.main(["run", "gemm", "--peers", "none", "--pairs", "W9A1"]) == 1
    assert "W3A3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["run", "everything"])
