"""The model of ARM cores: how instructions are priced, how counts are compared, what the report makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as cli
from bench.reports import documents
from bench.reports import modelled as modelled_tables
from bench.runs import modelled, results
from tools.arm import cycles, model
from tools.arm.emulation import Execution, parse_counts


def synthetic() -> dict[str, Any]:
    """Cycles a product such that ratios are round."""
    ours = {
        "mul8_neon_3x32": {"W2A2": 0.2, "W3A3": 0.25, "W4A4": 0.25},
        "ulppack_p1_neon_3x32": {"W3A3": 0.25},
        "bitserial_neon_4x32": {"W1A1": 0.0625, "W3A3": 0.5},
    }
    peers = {"gemmlowp": {"W8A7": 0.5}, "smlal": {"W8A7": 0.4}}
    cores = {name: {"model": "a model", "ghz": 1.0, "isas": ["neon"]} for name in ("cortex-a53", "cortex-a72")}
    return {
        "schema": 1,
        "basis": "modelled",
        "environment": {"date": "2026-01-02T03:04:05", "command": "python -m bench model", "compiler": "a compiler", "commit": "0" * 40},
        "shape": [256, 256, 256],
        "cores": cores,
        "peers": ["gemmlowp", "sdot", "smlal"],
        "products": {core: {**ours, **peers} for core in cores},
    }


def test_the_report_names_the_best_kernel_and_its_peers() -> None:
    table = modelled_tables.cores_table(synthetic())
    assert "modelled" in table.title
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row == {
        "": "cortex-a53", "W1A1": "16.0 bitserial", "W2A2": "5.0 mul8", "W3A3": "4.0 mul8", "W4A4": "4.0 mul8", "W8A8": "-",
        "gemmlowp": "2.0", "QNNPACK's scheme": "2.5", "sdot int8": "-",
    }  # fmt: skip


def test_targets_are_compared_with_the_fastest_peer() -> None:
    rows = {row[0]: row[2:] for row in modelled_tables.targets_table(synthetic()).rows}
    assert rows["cortex-a53 W1A1"] == ("QNNPACK's scheme", "5.0x", "6.40x", "yes")
    assert rows["cortex-a72 W1A1"] == ("QNNPACK's scheme", "8.0x", "6.40x", "no")
    assert rows["cortex-a53 W2A2"][-2:] == ("2.00x", "yes")
    assert rows["cortex-a53 W3A3"][-2:] == ("1.60x", "no")
    assert not any(name.startswith("neoverse") for name in rows)  # sdot is not in these figures


def test_the_published_claim_holds_or_does_not() -> None:
    verdicts = {row[0]: row[1:] for row in modelled_tables.claim_table(synthetic()).rows if row[0].startswith("cortex-a72")}
    assert verdicts == {
        "cortex-a72, over gemmlowp": ("2.1x", "2.00x", "yes, within the model's error"),
        "cortex-a72, over QNNPACK's scheme": ("1.8x", "1.60x", "yes, within the model's error"),
        "cortex-a72, over bit-serial (ours)": ("2.7x", "2.00x", "yes, within the model's error"),
    }


def test_the_page_of_tables_has_a_section_of_its_own(tmp_path: Path) -> None:
    sources = documents.Sources(results.load_all(), synthetic())
    readme, page = tmp_path / "README.md", tmp_path / "performance.md"
    speed = f"{documents.BEGIN}\n{documents.END}\n"
    readme.write_text(speed)
    page.write_text(f"a\n{speed}b\n{documents.MODELLED_BEGIN}\n{documents.MODELLED_END}\nc\n")
    assert documents.write(readme, page, sources) == [readme, page]
    text = page.read_text()
    assert text.endswith(f"{documents.MODELLED_END}\nc\n")
    assert "nothing was measured on an ARM core" in text.partition(documents.MODELLED_BEGIN)[2]
    assert "ARM" not in readme.read_text()
    assert documents.outdated(readme, page, sources) == []
    page.write_text(text.replace(documents.MODELLED_END, ""))
    with pytest.raises(documents.ReportError, match="modelled:begin"):
        documents.outdated(readme, page, sources)


def test_the_stored_files_are_of_this_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (modelled.PRODUCTS, modelled.COSTS):
        content = modelled.load(path)
        assert content["basis"] == "modelled"
        assert modelled.save(content, tmp_path / path.name).read_text() == path.read_text()
    assert set(modelled.load(modelled.PRODUCTS)["products"]) == set(cycles.CORES)
    (tmp_path / "modelled.json").write_text(json.dumps({"schema": 2}))
    assert cli.main(["report", "--check", "--results", str(tmp_path)]) == 1
    assert "schema 2, expected 1" in capsys.readouterr().err


def test_calls_and_jumps_are_branches_to_the_model() -> None:
    lines = ["bl\t#64", "ret", "br\tx3", "b.ne\t#-64", "cbz\tx3, #16", "tbnz\tw3, #2, #16", "bic\tv0.16b, v1.16b, v2.16b"]
    assert [cycles._as_input(line) for line in lines] == [
        "b .L0", "b .L0", "b .L0", "b.ne .L0", "cbz\tx3, .L0", "tbnz\tw3, #2, .L0", "bic\tv0.16b, v1.16b, v2.16b",
    ]  # fmt: skip


def test_ports_bound_what_has_no_scheduler() -> None:
    assert cycles._port_bound(["sdot\tv0.4s, v1.16b, v2.16b"] * 8) == 2
    assert cycles._port_bound(["tbl\tv0.16b, { v1.16b, v2.16b }, v3.16b"] * 4) == 2
    assert cycles._port_bound(["tbl\tv0.16b, { v1.16b }, v3.16b"] * 4) == 1
    assert cycles._port_bound(["ldp\tq0, q1, [x0]"] * 3) == 2
    assert cycles._port_bound(["str\tq0, [x0]"] * 4) == 2
    assert cycles._port_bound(["add\tx0, x0, #1"] * 8) == 1


def test_counts_of_the_plugin_are_merged_by_what_ran(tmp_path: Path) -> None:
    counts = tmp_path / "blocks.txt"
    counts.write_text("run\n10 0\n5 1\nrun\n7 1\n3 2\nblock 2 00000001\nblock 1 00000001\nblock 0 00000002 000000ff\n")
    first, second = parse_counts(counts)
    assert first == Execution({(2, 255): 10, (1,): 5})
    assert first.instructions == 25
    assert second == Execution({(1,): 10})


def test_a_kernel_that_takes_more_instructions_is_told() -> None:
    stored = modelled.load(modelled.INSTRUCTIONS)
    assert model.more_instructions(stored, stored) == []
    kernel, (pair, *_) = next((name, list(pairs)) for name, pairs in stored["kernels"].items())
    before = stored["kernels"][kernel][pair]

    def with_count(count: int) -> dict[str, Any]:
        return {**stored, "kernels": {**stored["kernels"], kernel: {**stored["kernels"][kernel], pair: count}}}

    assert model.more_instructions(with_count(before // 2), stored) == []
    assert model.more_instructions(with_count(int(before * 1.019)), stored) == []
    (told,) = model.more_instructions(with_count(int(before * 1.03)), stored)
    assert told.startswith(f"{kernel} {pair}: ")
    assert "(+3.0%)" in told
    without = {**stored, "kernels": {name: pairs for name, pairs in stored["kernels"].items() if name != kernel}}
    assert all("not stored" in line for line in model.more_instructions(stored, without))
    assert all("not in the table" in line for line in model.more_instructions(without, stored))
