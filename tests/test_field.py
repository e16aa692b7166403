"""Small models out of PyPI packages: each loads and gives what onnxruntime gives. `tests/field/run` checks the large ones, too."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from field import models
from field.check import check

SMALL = [model for model in models.MODELS if model.small]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("field")


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.name.replace(": ", "-"))
def test_model(model: models.FieldModel, cache: Path) -> None:
    try:
        path = models.fetch(model, cache)
    except models.PackageMissingError as error:
        pytest.skip(str(error))
    outcome = check(model, path)
    assert not outcome.error
    assert outcome.equal, outcome.difference
