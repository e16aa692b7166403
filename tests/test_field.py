"""Small models out of PyPI packages: each loads and gives what onnxruntime gives. `tests/field/run` checks the large ones, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from field import models
from field.check import Outcome, check, table

ROOT = Path(__file__).parent.parent

SMALL = [model for model in models.MODELS if model.small]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("field")


def test_the_table_in_the_documents_is_that_of_the_results() -> None:
    record = json.loads((ROOT / "bench/results/field.json").read_text(encoding="utf-8"))
    expected = table([Outcome(**model) for model in record["models"]])
    assert expected in (ROOT / "docs/onnx.md").read_text(encoding="utf-8"), expected


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.name.replace(": ", "-"))
def test_model(model: models.FieldModel, cache: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    try:
        path = models.fetch(model, cache)
    except models.PackageMissingError as error:
        pytest.skip(str(error))
    outcome = check(model, path)
    assert not outcome.error
    assert outcome.equal, outcome.difference
