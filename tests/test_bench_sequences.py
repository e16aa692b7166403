"""The tables of networks on sequences, of result files that are made up."""

from __future__ import annotations

from typing import Any

from bench.reports import documents
from bench.runs.results import Cell, Group, Result


def cell(name: str, kind: str, ns: float, **info: Any) -> Cell:
    return Cell(name, kind, None, 0, 0, 1, [ns, ns, ns], info)


def result(what: str, *groups: Group) -> Result:
    return Result(what, {}, {}, None, {}, list(groups))


def test_tables_say_what_the_files_say() -> None:
    of_128 = [
        cell("onnxruntime, quantized in the call", "int8", 14e6, cosine_mean=0.92, cosine_min=0.86, rank_correlation=0.97),
        cell("torch, float", "fp32", 42e6),
        cell("ulp W4A8", "ulp", 7e6, cosine_mean=0.98, cosine_min=0.97, rank_correlation=0.99),
    ]
    sentences = result(
        "sentences", Group("MiniLM, 1 words", (1, 1, 0), [cell("ulp W4A8", "ulp", 5e5)]), Group("MiniLM, 128 words", (1, 128, 0), of_128)
    )
    keyword = result(
        "keyword",
        Group(
            "a frame of 10 ms",
            (1, 64, 40),
            [
                cell("features of a frame", "numpy", 4e4),
                cell("ulp LSTM W4A8", "ulp", 9e3, recognized=0.95, modelled_us={"cortex-a53": 7.86}),
            ],
        ),
    )
    grouped = result("grouped", *(Group(name, (1, 8, 8), [cell("ulp W4A8 groups", "ulp", 4e5)]) for name in ("1x8x8", "1x8x8 cold")))
    made = documents.tables({"sentences": sentences, "keyword": keyword, "grouped": grouped}, exactness=False)
    rows = {table.title: [tuple(row) for row in table.rows] for table in made}
    assert all(title.startswith(documents.SHOWN) for title in rows)
    assert ("ulp W4A8", "7.00", "2.00x [2.00-2.00]", "6.00x [6.00-6.00]", "0.9800", "0.9700", "0.9900") in rows[
        "Sentences: MiniLM, 128 words"
    ]
    assert ("torch, float", "42", "-") in rows["Sentences: MiniLM by length"]
    assert rows["Keyword spotting on a stream"][1] == ("ulp LSTM W4A8", "9.00", "7.9", "95.0 %")
    assert "modelled" in made[2].header[2]
    assert rows["Weights in groups"] == [("ulp W4A8 groups", "0.4", "0.4")]
