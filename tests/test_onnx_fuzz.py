"""Models changed at random: loaded and run, or refused in an error's words. `python tests/onnx_mutate.py` goes on for longer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="the loader of models needs the package onnx")

import onnx_mutate  # only where there is onnx

SEEDS = onnx_mutate.seeds()


def test_seeds_run() -> None:
    assert [onnx_mutate.attempt(model.SerializeToString()) for model in SEEDS] == ["ran"] * len(SEEDS)


@given(st.sampled_from(range(len(SEEDS))), st.integers(0, 2**32 - 1))
def test_changed_models(which: int, number: int) -> None:
    onnx_mutate.attempt(onnx_mutate.mutate(SEEDS[which], random.Random(number)))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert onnx_mutate.attempt(data) == "refused"


@given(st.sampled_from(range(len(SEEDS))), st.data())
def test_bytes_in_place_of_others(which: int, data: st.DataObject) -> None:
    model = SEEDS[which].SerializeToString()
    begin = data.draw(st.integers(0, len(model)))
    end = data.draw(st.integers(begin, len(model)))
    onnx_mutate.attempt(model[:begin] + data.draw(st.binary(max_size=8)) + model[end:])
