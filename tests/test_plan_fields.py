"""The fields of steps: what the native list, the typed contract and saved files say of them; and that no value of one can do harm."""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_plan_errors import IMAGE, NONE, ONES, OTHER, POOLED, RESULT, ROWS, SOURCE, UNWRITTEN, W8, begin, entries, unscaled

import ulp
from tools.reference.plan import ReferencePlan
from ulp import _core

# Files hold the fields of a step in this order. New ones may follow, if they may be left out.
SAVED = {
    "input_floats": ("channels", "height", "width", "targets", "divide", "nhwc"),
    "input_codes": ("tensor", "nhwc"),
    "conv": ("source", "source_channel", "weights", "kernel", "stride", "padding", "dilation", "weight_zero", "finish", "method"),
    "depthwise": ("source", "weights", "stride", "padding", "dilation", "finish"),
    "linear": ("source", "weights", "weight_zero", "finish", "kernel"),
    "max_pool": ("source", "target", "rows", "columns", "dilation", "takes_min"),
    "window_mean": ("source", "rows", "columns", "divisor", "finish"),
    "rescale": ("source", "finish"),
    "gather": ("source", "source_channel", "channels", "target", "rows", "columns"),
    "rearrange": ("source", "target", "rows", "columns", "channels"),
    "lookup": ("source", "target", "codes", "values"),
    "combine": ("operands", "channels", "multiply", "low", "high", "targets", "divide"),
    "linear_floats": ("source", "target", "weights", "bias"),
    "dynamic_linear": ("source", "weights", "weight_zero", "per_row", "finish", "kernel", "bits", "function"),
    "recurrent": (
        *("source", "kind", "input_weights", "weights", "weight_zeros", "input_scale", "scale", "bias", "input_bits", "hidden_bits"),
        *("per_row", "reverse", "targets", "divide", "candidate", "hidden_bias", "hidden_scale", "hidden_zero", "hidden", "cell"),
        *("lengths", "final_hidden", "final_cell"),
    ),
    "grouped_linear": ("source", "target", "weights", "group", "scales", "zeros", "zero", "table", "bias", "per_group"),
    "output": ("tensor", "nhwc"),
}


def signatures(source: Path, name: str) -> dict[str, dict[str, bool]]:
    """Of a class: each method's keyword-only arguments, and whether they may be left out."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    methods = [method for method in found.body if isinstance(method, ast.FunctionDef)]
    return {
        method.name: {arg.arg: default is not None for arg, default in zip(method.args.kwonlyargs, method.args.kw_defaults, strict=True)}
        for method in methods
    }


def test_fields_stand_in_the_order_of_saved_files() -> None:
    kinds = _core.plan_steps()
    for name, fields in SAVED.items():
        assert kinds[name][: len(fields)] == fields


def test_fields_are_those_of_the_contract_and_of_the_reference() -> None:
    contract = signatures(Path(ulp.__file__).with_name("_core.pyi"), "Plan")
    reference: dict[str, dict[str, bool]] = {}
    for part in reversed(ReferencePlan.__mro__[:-1]):
        reference |= signatures(Path(inspect.getfile(part)), part.__name__)
    for name, fields in _core.plan_steps().items():
        assert tuple(contract[name]) == fields
        assert reference[name] == contract[name]


@pytest.mark.parametrize("name", _core.plan_steps())
def test_fields_without_a_default_must_be_there(name: str) -> None:
    contract = signatures(Path(ulp.__file__).with_name("_core.pyi"), "Plan")[name]
    for field, optional in contract.items():
        plan = _core.Plan()
        begin(plan)
        given = {key: value for key, value in valid(plan)[name].items() if key != field}
        if (name, field) == ("lookup", "codes"):  # one of codes and values must be there
            with pytest.raises(ValueError, match=r"^lookup: expected one of codes and values$"):
                plan.lookup(**given)
        elif optional:
            added(plan, name, given)
        else:
            with pytest.raises(ValueError, match=f"^{name} lacks '{field}'$"):
                getattr(plan, name)(**given)


DOWN, ALONG = (1, 0, 0), (0, 0, 1)


def valid(plan: Any) -> dict[str, dict[str, Any]]:
    """Fields that the plan of `begin` takes, but for the inputs, which need an empty one."""
    vector = plan.floats(1, 1, 4)
    wide, sums, row = plan.floats(4, 4, 6), plan.floats(4, 4, 6), plan.floats(1, 3, 2)
    plan.rescale(source=SOURCE, finish=unscaled(targets=[(wide, 0)]))
    window = {"stride": ONES, "padding": NONE, "dilation": ONES}
    windows = {"rows": ROWS, "columns": ROWS}
    indices = {"rows": np.arange(4, dtype=np.int32), "columns": np.arange(4, dtype=np.int32)}
    w128 = _core.pack(np.ones((128, 4), np.int8), 2)
    conv_finish = entries(residual=(OTHER, 1), start=np.ones(4, np.int32))
    depthwise_finish = entries(scale=np.ones(6, np.float32), bias=np.ones(6, np.float32))
    whole_conv = {"source": SOURCE, "source_channel": 0, "weights": W8, "kernel": ONES, "weight_zero": 0, "method": None}
    return {
        "input_floats": {"channels": 3, "height": 4, "width": 4, "targets": [IMAGE], "divide": False, "nhwc": False},
        "input_codes": {"tensor": IMAGE, "nhwc": True},
        "conv": whole_conv | window | {"finish": conv_finish},
        "depthwise": {"source": SOURCE, "weights": np.ones((1, 1, 6), np.int8), **window, "finish": depthwise_finish},
        "linear": {"source": SOURCE, "weights": w128, "weight_zero": 0, "finish": entries(targets=[(vector, 0)]), "kernel": None},
        "max_pool": {"source": SOURCE, "target": (POOLED, 0), **windows, "dilation": ONES, "takes_min": np.ones(6, bool)},
        "window_mean": {"source": SOURCE, **windows, "divisor": np.ones((2, 2), np.float32), "finish": unscaled(targets=[(POOLED, 0)])},
        "rescale": {"source": SOURCE, "finish": unscaled(unit=1.0)},
        "gather": {"source": SOURCE, "source_channel": 0, "channels": 6, "target": (UNWRITTEN, 0), **indices},
        "rearrange": {
            "source": SOURCE,
            "target": (UNWRITTEN, 0),
            "rows": np.array([[0, x, 0] for x in range(4)], np.int32),
            "columns": np.array([[y, 0, 0] for y in range(4)], np.int32),
            "channels": np.array([[0, 0, c] for c in (5, 4, 2, 3, 1, 0)], np.int32),
        },
        "lookup": {"source": SOURCE, "target": (UNWRITTEN, 0), "codes": np.arange(16, dtype=np.uint8)[None], "values": None},
        "combine": {
            "operands": [(SOURCE, 0), (OTHER, 0)],
            "channels": 6,
            "multiply": False,
            "low": 0.0,
            "high": math.inf,
            "targets": [(UNWRITTEN, 0)],
            "divide": True,
        },
        "linear_floats": {"source": wide, "target": (vector, 0), "weights": np.ones((96, 4), np.float32), "bias": np.ones(4, np.float32)},
        "rows": {
            "operands": [(SOURCE, 0), (OTHER, 0)],
            "channels": 6,
            "groups": 1,
            "function": "layer_norm",
            "gamma": np.ones(6, np.float32),
            "beta": np.zeros(6, np.float32),
            "epsilon": 1e-5,
            "targets": [(UNWRITTEN, 0)],
            "divide": True,
        },
        "product": {
            "a": (SOURCE, 0),
            "b": (OTHER, 0),
            "target": (UNWRITTEN, 0),
            "sizes": (4, 4, 4, 6),
            "steps": np.array(
                [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.int32
            ),
            "scale": 0.5,
            "in_units": True,
        },
        "attention": {
            "q": (wide, 0),
            "k": (wide, 2),
            "v": (wide, 4),
            "mask": None,
            "target": (row, 0),
            "sizes": (1, 3, 2, 4),
            "values": 2,
            "steps": np.array(
                [(0, 0, 0), DOWN, ALONG, (0, 0, 0), ALONG, DOWN, (0, 0, 0), DOWN, ALONG, (0, 0, 0), (0, 1, 0), ALONG], np.int32
            ),
            "scale": 0.5,
        },
        "dynamic_linear": {
            "source": wide,
            "weights": _core.pack(np.ones((8, 6), np.int8), 2),
            "weight_zero": 0,
            "per_row": True,
            "finish": entries(targets=[(UNWRITTEN, 0)], scale=np.ones(6, np.float32), bias=np.ones(6, np.float32)),
            "kernel": None,
            "bits": 5,
            "function": "gelu",
            "outliers": np.zeros(0, np.int32),
            "outlier_weights": np.zeros((0, 6), np.float32),
        },
        "recurrent": recurrent_fields(plan),
        "grouped_linear": {
            "source": wide,
            "target": (sums, 0),
            "weights": _core.pack(np.ones((64, 6), np.uint8), 3),
            "group": 3,
            "scales": np.ones((2, 6), np.float32),
            "zeros": np.ones((2, 6), np.float32),
            "zero": 0,
            "table": None,
            "bias": np.ones(6, np.float32),
            "per_group": True,
        },
        "output": {"tensor": OTHER, "nhwc": True},
    }


def recurrent_fields(plan: Any) -> dict[str, Any]:
    """Of an LSTM of 6 units over the 16 pixels of the source as a row, with states."""
    line, result, state, end = plan.floats(1, 4, 6), plan.floats(1, 4, 6), plan.floats(1, 1, 13), plan.floats(1, 1, 12)
    index = np.zeros((3, 4, 3), np.int32)  # of the row, its columns, its channels
    index[1, :, 1] = np.arange(4)
    plan.rescale(source=SOURCE, finish=unscaled(targets=[(wide := plan.floats(4, 4, 6), 0)]))
    channels = np.array([[0, 0, c] for c in range(6)], np.int32)
    plan.rearrange(source=wide, target=(line, 0), rows=index[0, :1], columns=index[1], channels=channels)
    picked = np.array([[0, 0, 0]] * 13, np.int32)
    plan.rearrange(source=wide, target=(state, 0), rows=index[0, :1], columns=index[0, :1], channels=picked)
    weights = _core.pack(np.ones((8, 24), np.int8), 2)
    ones = np.ones(24, np.float32)
    return {
        "source": line,
        "kind": "lstm",
        "input_weights": weights,
        "weights": weights,
        "weight_zeros": (0, 0),
        "input_scale": ones,
        "scale": ones,
        "bias": ones,
        "input_bits": 4,
        "hidden_bits": 8,
        "per_row": True,
        "reverse": True,
        "targets": [(result, 0)],
        "divide": True,
        "candidate": None,
        "hidden_bias": None,
        "hidden_scale": 0.5,
        "hidden_zero": 0,
        "hidden": (state, 0),
        "cell": (state, 6),
        "lengths": (state, 12),
        "final_hidden": (end, 0),
        "final_cell": (end, 6),
    }


def added(plan: Any, name: str, fields: dict[str, Any]) -> Any:
    """Add the step to `plan`, or an input to a plan of its own, which is returned."""
    if name.startswith("input"):
        plan = _core.Plan()
        for _ in range(7):
            plan.codes(4, 4, 3, 4, 0, 0.5)
    getattr(plan, name)(**fields)
    return plan


class Raises:
    """Fails whatever is asked of it."""

    def __index__(self) -> int:
        raise OverflowError("index")

    def __float__(self) -> float:
        raise OverflowError("float")

    def __len__(self) -> int:
        raise OverflowError("len")

    def __getitem__(self, _: object) -> object:
        raise OverflowError("getitem")


def hostile(plan: Any) -> list[Any]:
    class AddsSteps:
        """Changes the plan while it is read."""

        def __index__(self) -> int:
            plan.output(tensor=SOURCE, nhwc=True)
            plan.codes(1, 1, 1, 1, 0, 1.0)
            return SOURCE

    changed = entries()
    changed["low"] = type("Clears", (), {"__float__": lambda _: changed.clear() or 0.0})()
    values: list[Any] = [None, ..., -1, 0, 7, 2**31 - 1, -(2**31), 2**64, True, 0.5, math.nan, "", "mul8_scalar", "\udc80", b"1"]
    values += [[], {}, (1,), [[]], [None] * 3, (0, 0), (1, -1), (2**31 - 1, 2**31 - 1), [(0, 0)] * 5, {"scale": 1}, {1: 2}]
    values += [entries(), changed, unscaled()]
    values += [Raises(), AddsSteps(), [AddsSteps()] * 2, W8, plan, type, np.float32(1), np.int64(0), np.zeros(0, np.int32)]
    for dtype in (np.int8, np.int32, np.float32, bool, object):
        values += [np.zeros(shape, dtype) for shape in ((), (4,), (2, 2), (0, 2), (4, 31), (1, 1, 6), (1, 0, 6), (1, 1, 1, 1))]
    return [*values, np.full((2, 2), np.nan, np.float32), np.full((3, 2), 2**31 - 1, np.int32), np.full(4, -(2**31), np.int32)]


def attempts(plan: Any, name: str) -> Iterator[dict[str, Any]]:
    """The fields of a step with one of them, or of its epilogue, replaced by whatever there is."""
    fields = valid(plan)[name]
    for value in hostile(plan):
        for field in fields:
            yield fields | {field: value}
        for entry in ("scale", "bias", "start", "unit", "residual", "low", "high", "targets", "thresholds"):
            if "finish" in fields:
                yield fields | {"finish": fields["finish"] | {entry: value}}


@pytest.mark.parametrize("name", _core.plan_steps())
def test_no_value_of_a_field_does_harm(name: str) -> None:
    refused = 0
    x = np.zeros((1, 6, 4, 4), np.float32)
    if name.startswith("input"):
        x = np.zeros((1, 3, 4, 4), np.uint8 if name == "input_codes" else np.float32)
    first = _core.Plan()
    begin(first)
    for i, _ in enumerate(attempts(first, name)):
        plan = _core.Plan()
        begin(plan)
        fields = next(itertools.islice(attempts(plan, name), i, None))
        try:
            plan = added(plan, name, fields)
        except (TypeError, ValueError, OverflowError):
            refused += 1
            continue
        plan.output(tensor=plan.steps()[0]["targets"][0], nhwc=True)
        plan.finalize(1, False)
        nhwc = fields.get("nhwc") is True and name.startswith("input")
        shape = (1, 4, 4, x.shape[1]) if nhwc else (1, x.shape[1], 4, 4)
        with contextlib.suppress(_core.NotFinite, _core.CodeOutOfRange):  # a function of zeros, as a root's inverse
            plan.run(np.zeros(shape, x.dtype))
    assert refused > 50


def test_a_step_that_is_read_while_others_are_added() -> None:
    """What reads a field may run code that changes the plan: the checks come after."""
    plan = _core.Plan()
    begin(plan)

    class Greedy:
        def __index__(self) -> int:
            plan.rescale(source=SOURCE, finish=unscaled(targets=[(RESULT, 0)]))
            return SOURCE

    with pytest.raises(ValueError, match="rescale: channel 0 of tensor 4 is written twice"):
        plan.rescale(source=Greedy(), finish=unscaled(targets=[(RESULT, 0)]))  # type: ignore[arg-type]
    assert [step["kind"] for step in plan.steps()] == ["input_floats", "rescale"]
