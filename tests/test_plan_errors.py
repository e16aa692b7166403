"""What a plan refuses, in which words; and that a refused call leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import Array, assert_exact

import ulp
from tools.reference.plan import ReferencePlan
from ulp import _core

F32 = np.float32
ONES = (1, 1)
NONE = (0, 0, 0, 0)
SOURCE, OTHER, FLOATS, UNWRITTEN, RESULT, POOLED, IMAGE = range(7)  # the tensors of `begin`
W8 = _core.pack(np.arange(32, dtype=np.int8).reshape(8, 4) % 4 - 2, 3)  # 1 x 1 from 6 channels, padded to 8
ROWS = np.array([[0, 2], [2, 4]], np.int32)


def entries(**changes: Any) -> Any:
    """A finish of 4 channels; what is changed to ... is left out."""
    made = {
        "scale": np.full(4, 0.5, F32),
        "bias": np.zeros(4, F32),
        "residual": None,
        "low": -math.inf,
        "high": math.inf,
        "targets": [(RESULT, 0)],
        "thresholds": [None],
    } | changes
    return {key: value for key, value in made.items() if value is not ...}


def unscaled(**changes: Any) -> Any:
    return entries(scale=..., bias=..., **changes)


def begin(plan: Any) -> None:
    plan.codes(4, 4, 6, 4, 8, 0.5)
    plan.codes(4, 4, 6, 4, 8, 0.5)
    plan.floats(4, 4, 4)
    plan.codes(4, 4, 6, 4, 8, 0.5)
    plan.codes(4, 4, 9, 5, 0, 0.25)
    plan.codes(2, 2, 6, 4, 8, 0.5)
    plan.codes(4, 4, 3, 4, 0, 0.5)
    plan.input_floats(channels=6, height=4, width=4, targets=[SOURCE, OTHER])


def go_on(plan: Any) -> None:
    """Uses all that a refused step might have marked."""
    weights = _core.pack(np.where(np.arange(288).reshape(72, 4) % 8 < 6, np.arange(288).reshape(72, 4) % 7 - 3, 0).astype(np.int8), 4)
    plan.conv(
        source=SOURCE,
        source_channel=0,
        weights=weights,
        kernel=(3, 3),
        stride=ONES,
        padding=(1, 1, 1, 1),
        dilation=ONES,
        weight_zero=0,
        finish=entries(targets=[(RESULT, 1), (FLOATS, 0)], thresholds=[None] * 2),
        method=None,
    )
    plan.gather(
        source=SOURCE,
        source_channel=2,
        channels=1,
        target=(UNWRITTEN, 0),
        rows=np.arange(4, dtype=np.int32),
        columns=np.arange(4, dtype=np.int32),
    )
    plan.gather(
        source=SOURCE,
        source_channel=0,
        channels=5,
        target=(UNWRITTEN, 1),
        rows=np.arange(4, dtype=np.int32),
        columns=np.arange(4, dtype=np.int32),
    )
    one = entries(scale=np.ones(1, F32), bias=np.zeros(1, F32), targets=[(RESULT, 0)])
    plan.conv(
        source=OTHER,
        source_channel=0,
        weights=_core.pack(np.full((8, 1), 1, np.int8), 2),
        kernel=ONES,
        stride=ONES,
        padding=NONE,
        dilation=ONES,
        weight_zero=0,
        finish=one,
        method="direct",
    )
    rest = unscaled(targets=[(RESULT, 5)])
    small = plan.codes(4, 4, 4, 4, 8, 0.5)
    plan.gather(
        source=OTHER,
        source_channel=1,
        channels=4,
        target=(small, 0),
        rows=np.arange(4, dtype=np.int32),
        columns=np.arange(4, dtype=np.int32),
    )
    plan.rescale(source=small, finish=rest)
    plan.max_pool(source=UNWRITTEN, target=(POOLED, 0), rows=ROWS, columns=ROWS, dilation=ONES)
    image = entries(scale=np.ones(3, F32), bias=np.ones(3, F32), targets=[(IMAGE, 0)])
    plan.conv(
        source=OTHER,
        source_channel=2,
        weights=_core.pack(np.full((4, 3), 1, np.int8), 2),
        kernel=ONES,
        stride=ONES,
        padding=NONE,
        dilation=ONES,
        weight_zero=0,
        finish=image,
        method=None,
    )
    # Pixels of three channels, read without pads.
    tight = plan.floats(4, 3, 2)
    w = _core.pack(np.arange(16, dtype=np.int8).reshape(8, 2) * 5 % 7 * (np.arange(8) < 6)[:, None].astype(np.int8), 4)
    two = entries(scale=np.ones(2, F32), bias=np.ones(2, F32), targets=[(tight, 0)])
    plan.conv(
        source=IMAGE,
        source_channel=0,
        weights=w,
        kernel=(1, 2),
        stride=ONES,
        padding=NONE,
        dilation=ONES,
        weight_zero=0,
        finish=two,
        method=None,
    )
    for tensor in (FLOATS, RESULT, POOLED, tight):
        plan.output(tensor=tensor, nhwc=False)


@pytest.fixture(scope="module")
def whole() -> tuple[Array, list[Array]]:
    """Input and results of the plan without any refused call."""
    x = np.random.default_rng(0).standard_normal((3, 6, 4, 4)).astype(F32) * 2
    plan = ReferencePlan()
    begin(plan)
    go_on(plan)
    plan.finalize(1, False)
    return x, plan.run(x)


def conv(**changes: Any) -> Callable[[Any], Any]:
    """conv with one of its arguments changed; those of `finish` by their own names."""
    named: dict[str, Any] = {
        "source": SOURCE,
        "source_channel": 0,
        "weights": W8,
        "kernel": ONES,
        "stride": ONES,
        "padding": NONE,
        "dilation": ONES,
        "weight_zero": 0,
        "method": None,
    }
    own = {key: value for key, value in changes.items() if key in named or key == "finish"}
    finish = entries(**{key: value for key, value in changes.items() if key not in own})
    return lambda plan: plan.conv(**({**named, "finish": finish} | own))


def bipolar(k: int, n: int = 4) -> Any:
    return _core.pack(np.ones((k, n), np.int8), 1)


TABLE = np.zeros((4, 31), np.int32)
FLIP = np.zeros(4, bool)
VALUE, TYPE = ValueError, TypeError
Case = tuple[Callable[[Any], Any], type[Exception], str]
CASES: dict[str, Case] = {
    "no height": (lambda p: p.codes(0, 4, 4, 4, 0, 1.0), VALUE, r"image 0 x 4 x 4: each side must be in 1\.\.16777216"),
    "huge width": (lambda p: p.floats(4, 2**24 + 1, 4), VALUE, "image 4 x 16777217 x 4: each side"),
    "absurd image": (lambda p: p.codes(2**24, 2**24, 1, 4, 0, 1.0), VALUE, "image 16777216 x 16777216 x 1 is too large"),
    "more than int32": (lambda p: p.codes(2**40, 4, 4, 4, 0, 1.0), VALUE, "height = 1099511627776 is outside the range of int32"),
    "float height": (lambda p: p.codes(4.0, 4, 4, 4, 0, 1.0), TYPE, "height: expected an integer, got float"),
    "bool height": (lambda p: p.codes(True, 4, 4, 4, 0, 1.0), TYPE, "height: expected an integer, got bool"),
    "no bits": (lambda p: p.codes(4, 4, 4, 0, 0, 1.0), VALUE, r"bits = 0 is outside 1\.\.8"),
    "9 bits": (lambda p: p.codes(4, 4, 4, 9, 0, 1.0), VALUE, "bits = 9"),
    "zero beyond the codes": (lambda p: p.codes(4, 4, 4, 3, 8, 1.0), VALUE, r"zero = 8 is outside the codes 0\.\.7"),
    "negative zero": (lambda p: p.codes(4, 4, 4, 3, -1, 1.0), VALUE, "zero = -1"),
    "no scale": (lambda p: p.codes(4, 4, 4, 3, 0, 0.0), VALUE, "scale = 0.0*: expected a positive normal float32"),
    "nan scale": (lambda p: p.codes(4, 4, 4, 3, 0, math.nan), VALUE, "scale = nan"),
    "infinite scale": (lambda p: p.codes(4, 4, 4, 3, 0, 1e300), VALUE, "scale = inf"),
    "denormal scale": (lambda p: p.codes(4, 4, 4, 3, 0, 1e-40), VALUE, "scale"),
    "text scale": (lambda p: p.codes(4, 4, 4, 3, 0, "1"), TYPE, "scale: expected a float, got str"),
    "no such tensor": (conv(source=99), VALUE, "conv: there is no tensor 99; the plan has 7"),
    "negative tensor": (conv(source=-1), VALUE, "conv: there is no tensor -1"),
    "source of floats": (conv(source=FLOATS), VALUE, "conv: tensor 2 holds floats, not codes"),
    "unwritten source": (conv(source=UNWRITTEN), VALUE, "conv: no step has written channel 0 of tensor 3"),
    "source channel": (conv(source_channel=3), VALUE, "conv: weights read 8 channels from 3 of 6"),
    "negative source channel": (conv(source_channel=-1), VALUE, "conv: 7 channels from -1 on are not within the 6 of tensor 0"),
    "lowest source channel": (conv(source_channel=-(2**31)), VALUE, "channels from -2147483648 on"),
    "no weights": (conv(weights=None), TYPE, "weights: expected _core.Packed, got NoneType"),
    "unpacked weights": (conv(weights=np.zeros((8, 4), np.int8)), TYPE, "weights: expected _core.Packed, got numpy.ndarray"),
    "weights of another K": (conv(kernel=(3, 3)), VALUE, "conv: weights of K = 8 do not fit 9 taps"),
    "no kernel": (conv(kernel=(0, 1)), VALUE, r"kernel height = 0 is outside 1\.\.4096"),
    "huge kernel": (conv(kernel=(1, 4097)), VALUE, "kernel width = 4097"),
    "kernel of three": (conv(kernel=(1, 1, 1)), VALUE, "kernel has 3 elements, expected 2"),
    "kernel of None": (conv(kernel=(1, None)), TYPE, "kernel: expected an integer, got NoneType"),
    "one kernel side": (conv(kernel=3), TYPE, "kernel: expected a sequence of integers, got int"),
    "no stride": (conv(stride=(1, 0)), VALUE, "stride = 0"),
    "huge stride": (conv(stride=(2**31, 1)), VALUE, "stride = 2147483648 is outside the range of int32"),
    "negative padding": (conv(padding=(0, 0, -1, 0)), VALUE, r"padding = -1 is outside 0\.\.4096"),
    "two paddings": (conv(padding=(0, 0)), VALUE, "padding has 2 elements, expected 4"),
    "no dilation": (conv(dilation=(0, 1)), VALUE, "dilation = 0"),
    "kernel past the image": (
        conv(kernel=(3, 3), weights=bipolar(9 * 8), source_channel=0, dilation=(2, 1)),
        VALUE,
        "conv: the kernel is larger than the padded image",
    ),
    "weight zero past the sums": (conv(weight_zero=2**31 - 1), VALUE, "conv: K = 8 could overflow int32; it may be at most 0"),
    "no kernel of that name": (conv(method="mul9"), VALUE, "unknown kernel 'mul9'; known: .*mul8_scalar"),
    "method of no name": (conv(method=3), TYPE, "method: expected None or a name, got int"),
    "winograd of 1 x 1": (conv(method="winograd"), VALUE, "method 'winograd' cannot run here: it takes 3 x 3 kernels only"),
    "kernel of another kind": (conv(method="rowpair_avx2_6x32"), VALUE, "rowpair_avx2_6x32"),
    "bipolar pads": (
        conv(weights=bipolar(4), source_channel=3, source=OTHER),
        VALUE,
        "conv: bipolar weights have no zero for what lies behind channel 5",
    ),
    "field of no name": (lambda p: p.rescale(source=SOURCE, finish=unscaled(), more=1), VALUE, "rescale: unknown field 'more'"),
    "field left out": (lambda p: p.rescale(source=SOURCE), VALUE, "rescale lacks 'finish'"),
    "no fields": (lambda p: p.conv(), VALUE, "conv lacks 'source'"),
    "fields by position": (lambda p: p.rescale(SOURCE, unscaled()), TYPE, "incompatible function arguments"),
    "finish of no dict": (conv(finish=[1]), TYPE, "finish: expected a dict, got list"),
    "finish with a number": (conv(finish={**entries(), 3: 3}), TYPE, "finish: keys are strings, got int"),
    "finish with more": (conv(more=1), VALUE, "finish: unknown field 'more'"),
    "no targets": (conv(targets=...), VALUE, "finish lacks 'targets'"),
    "no thresholds": (conv(thresholds=...), VALUE, "finish lacks 'thresholds'"),
    "no low": (conv(low=...), VALUE, "finish lacks 'low'"),
    "no residual": (conv(residual=...), VALUE, "finish lacks 'residual'"),
    "no scale of sums": (conv(scale=...), VALUE, "conv: scale and bias must have 4 values"),
    "no bias": (conv(bias=None), VALUE, "conv: scale and bias must have 4 values"),
    "scale of another length": (conv(scale=np.ones(3, F32)), VALUE, "conv: scale and bias must have 4 values"),
    "scale of another dtype": (conv(scale=np.ones(4)), TYPE, r"finish\['scale'\] has dtype float64, expected float32"),
    "scale of another byte order": (conv(scale=np.ones(4, ">f4")), TYPE, r"finish\['scale'\] has dtype >f4"),
    "scale of two dimensions": (conv(scale=np.ones((1, 4), F32)), VALUE, r"finish\['scale'\] has shape \(1, 4\), expected 1 dimensions"),
    "list of scales": (conv(scale=[1.0] * 4), TYPE, r"finish\['scale'\]: expected a numpy array of float32, got list"),
    "nan in scale": (conv(scale=np.full(4, np.nan, F32)), VALUE, r"conv: bias and 2\^31 \* scale must be finite"),
    "scale that overflows": (conv(scale=np.full(4, 1e30, F32)), VALUE, r"conv: bias and 2\^31 \* scale must be finite"),
    "infinite bias": (conv(bias=np.full(4, np.inf, F32)), VALUE, r"conv: bias and 2\^31 \* scale must be finite"),
    "nan low": (conv(low=math.nan), VALUE, "conv: low must not be above high"),
    "low above high": (conv(low=1.0, high=0.0), VALUE, "conv: low must not be above high"),
    "text low": (conv(low="0"), TYPE, r"finish\['low'\]: expected a float, got str"),
    "empty targets": (conv(targets=[], thresholds=[]), VALUE, r"conv: expected 1\.\.4 targets, got 0"),
    "five targets": (conv(targets=[(RESULT, 0)] * 5, thresholds=[None] * 5), VALUE, r"conv: expected 1\.\.4 targets, got 5"),
    "target of no pair": (conv(targets=[RESULT]), TYPE, r"finish\['targets'\]: expected a sequence of integers, got int"),
    "target is the source": (conv(source=OTHER, targets=[(OTHER, 0)]), VALUE, "conv: a tensor that is read cannot be a target"),
    "target is the residual": (
        conv(targets=[(OTHER, 0)], residual=(OTHER, 0)),
        VALUE,
        "conv: a tensor that is read cannot be a target",
    ),
    "target of another size": (conv(targets=[(POOLED, 0)]), VALUE, "conv gives 4 x 4 x 4, which does not fit channel 0 on of tensor 5"),
    "target past the channels": (conv(targets=[(RESULT, 6)]), VALUE, "does not fit channel 6 on of tensor 4, 4 x 4 x 9"),
    "target far past the channels": (conv(targets=[(RESULT, 2**31 - 1)]), VALUE, "does not fit channel 2147483647 on"),
    "negative target channel": (conv(targets=[(RESULT, -1)]), VALUE, "does not fit channel -1 on"),
    "written twice": (conv(targets=[(OTHER, 0)]), VALUE, "conv: channel 0 of tensor 1 is written twice"),
    "second target written": (
        conv(targets=[(RESULT, 0), (OTHER, 0)], thresholds=[None] * 2),
        VALUE,
        "conv: channel 0 of tensor 1 is written twice",
    ),
    "targets that overlap": (
        conv(targets=[(RESULT, 0), (RESULT, 3)], thresholds=[None] * 2),
        VALUE,
        "conv: channel 3 of tensor 4 is written twice",
    ),
    "residual of floats": (conv(residual=(FLOATS, 0)), VALUE, "conv: no step has written channel 0 of tensor 2"),
    "residual of no tensor": (conv(residual=(-1, 0)), VALUE, "conv: there is no tensor -1; the plan has 7"),
    "residual past the channels": (conv(residual=(OTHER, 3)), VALUE, "conv: 4 channels from 3 on are not within the 6 of tensor 1"),
    "residual unwritten": (conv(residual=(UNWRITTEN, 0)), VALUE, "conv: no step has written channel 0 of tensor 3"),
    "thresholds of one target": (
        conv(targets=[(RESULT, 0), (FLOATS, 0)]),
        VALUE,
        r"finish\['thresholds'\] has 1 entries, expected one for each of the 2 targets",
    ),
    "thresholds for floats": (
        conv(targets=[(FLOATS, 0)], thresholds=[(TABLE, FLIP)]),
        VALUE,
        "conv: thresholds need a target of codes",
    ),
    "thresholds and residual": (
        conv(thresholds=[(TABLE, FLIP)], residual=(OTHER, 0)),
        VALUE,
        "conv: thresholds do not go with a residual",
    ),
    "fewer thresholds": (conv(thresholds=[(TABLE[:, 1:], FLIP)]), VALUE, "conv: expected 4 x 31 thresholds"),
    "empty thresholds": (conv(thresholds=[(TABLE[:, :0], FLIP)]), VALUE, "conv: expected 4 x 31 thresholds"),
    "thresholds of another shape": (conv(thresholds=[(TABLE.T.copy(), FLIP)]), VALUE, "conv: expected 4 x 31 thresholds"),
    "fewer flips": (conv(thresholds=[(TABLE, FLIP[1:])]), VALUE, "conv: expected 4 x 31 thresholds"),
    "flips of bytes": (conv(thresholds=[(TABLE, FLIP.astype(np.uint8))]), TYPE, "flip has dtype uint8, expected bool"),
    "long thresholds": (conv(thresholds=[(TABLE.astype(np.int64), FLIP)]), TYPE, "values has dtype int64, expected int32"),
    "descending thresholds": (
        conv(thresholds=[(-np.arange(124, dtype=np.int32).reshape(4, 31), FLIP)]),
        VALUE,
        "conv: the thresholds of channel 0 do not ascend",
    ),
    "thresholds of one array": (conv(thresholds=[TABLE[:3]]), VALUE, "each of the thresholds is None or"),
    "no depthwise dimensions": (
        lambda p: p.depthwise(source=SOURCE, weights=np.zeros((3, 3), np.int8), stride=ONES, padding=NONE, dilation=ONES, finish=entries()),
        VALUE,
        r"weights has shape \(3, 3\), expected 3 dimensions",
    ),
    "depthwise floats": (
        lambda p: p.depthwise(source=SOURCE, weights=np.zeros((3, 3, 6)), stride=ONES, padding=NONE, dilation=ONES, finish=entries()),
        TYPE,
        "weights has dtype float64, expected int8",
    ),
    "depthwise channels": (
        lambda p: p.depthwise(
            source=SOURCE, weights=np.zeros((1, 1, 4), np.int8), stride=ONES, padding=NONE, dilation=ONES, finish=entries()
        ),
        VALUE,
        "depthwise: expected 1 x 6 weights",
    ),
    "empty depthwise": (
        lambda p: p.depthwise(
            source=SOURCE, weights=np.zeros((0, 1, 6), np.int8), stride=ONES, padding=NONE, dilation=ONES, finish=entries()
        ),
        VALUE,
        "kernel height = 0",
    ),
    "depthwise epilogue": (
        lambda p: p.depthwise(
            source=SOURCE, weights=np.zeros((1, 1, 6), np.int8), stride=ONES, padding=(1, 1, 1, 1), dilation=ONES, finish=entries()
        ),
        VALUE,
        "depthwise: scale and bias must have 6 values",
    ),
    "linear weights": (
        lambda p: p.linear(source=SOURCE, weights=W8, weight_zero=0, finish=entries(), kernel=None),
        VALUE,
        "linear: weights have K = 8, the image 4 x 4 x 6 takes 128",
    ),
    "linear kernel": (
        lambda p: p.linear(
            source=SOURCE, weights=bipolar(128), weight_zero=0, finish=entries(targets=[(p.floats(1, 1, 4), 0)]), kernel="x"
        ),
        VALUE,
        "unknown kernel 'x'",
    ),
    "empty rows": (
        lambda p: p.max_pool(source=SOURCE, target=(POOLED, 0), rows=ROWS[:0], columns=ROWS, dilation=ONES),
        VALUE,
        "max_pool rows: expected pairs",
    ),
    "rows of threes": (
        lambda p: p.max_pool(source=SOURCE, target=(POOLED, 0), rows=np.zeros((2, 3), np.int32), columns=ROWS, dilation=ONES),
        VALUE,
        r"rows has shape \(2, 3\), expected \(windows, 2\)",
    ),
    "flat rows": (
        lambda p: p.max_pool(source=SOURCE, target=(POOLED, 0), rows=ROWS.ravel(), columns=ROWS, dilation=ONES),
        VALUE,
        r"rows has shape \(4,\), expected 2 dim",
    ),
    "long rows": (
        lambda p: p.max_pool(source=SOURCE, target=(POOLED, 0), rows=ROWS.astype(np.int64), columns=ROWS, dilation=ONES),
        TYPE,
        "rows has dtype int64",
    ),
    "rows below the image": (
        lambda p: p.max_pool(source=SOURCE, target=(POOLED, 0), rows=ROWS - 1, columns=ROWS, dilation=ONES),
        VALUE,
        r"max_pool rows -1\.\.1 is empty or outside 0\.\.4",
    ),
    "columns past the image": (
        lambda p: p.max_pool(source=SOURCE, target=(POOLED, 0), rows=ROWS, columns=ROWS + 1, dilation=ONES),
        VALUE,
        r"max_pool columns 3\.\.5 is empty or outside 0\.\.4",
    ),
    "empty window": (
        lambda p: p.max_pool(source=SOURCE, target=(POOLED, 0), rows=ROWS, columns=ROWS[:, ::-1], dilation=ONES),
        VALUE,
        r"max_pool columns 2\.\.0 is empty",
    ),
    "pool dilation": (
        lambda p: p.max_pool(source=SOURCE, target=(POOLED, 0), rows=ROWS, columns=ROWS, dilation=(0, 1)),
        VALUE,
        "dilation = 0",
    ),
    "pool into its source": (
        lambda p: p.max_pool(source=SOURCE, target=(SOURCE, 0), rows=ROWS, columns=ROWS, dilation=ONES),
        VALUE,
        "the source cannot be the target",
    ),
    "pool to another quantizer": (
        lambda p: p.max_pool(source=SOURCE, target=(RESULT, 0), rows=ROWS, columns=ROWS, dilation=ONES),
        VALUE,
        "max_pool: source and target must share a quantizer",
    ),
    "pool to another size": (
        lambda p: p.max_pool(source=SOURCE, target=(UNWRITTEN, 0), rows=ROWS, columns=ROWS, dilation=ONES),
        VALUE,
        "max_pool gives 2 x 2 x 6, which does not fit",
    ),
    "divisors of another shape": (
        lambda p: p.window_mean(source=SOURCE, rows=ROWS, columns=ROWS, divisor=np.ones((1, 2), F32), finish=unscaled()),
        VALUE,
        "window_mean: expected one divisor per window",
    ),
    "divisor of nothing": (
        lambda p: p.window_mean(source=SOURCE, rows=ROWS, columns=ROWS, divisor=np.zeros((2, 2), F32), finish=unscaled()),
        VALUE,
        "window_mean: divisors must be finite and not 0",
    ),
    "divisor too small": (
        lambda p: p.window_mean(source=SOURCE, rows=ROWS, columns=ROWS, divisor=np.full((2, 2), 1e-45, F32), finish=unscaled()),
        VALUE,
        "window_mean: scale / divisor is not finite",
    ),
    "mean with a scale": (
        lambda p: p.window_mean(source=SOURCE, rows=ROWS, columns=ROWS, divisor=np.ones((2, 2), F32), finish=entries()),
        VALUE,
        "window_mean takes no scale and no bias",
    ),
    "mean to another size": (
        lambda p: p.window_mean(source=SOURCE, rows=ROWS, columns=ROWS, divisor=np.ones((2, 2), F32), finish=unscaled()),
        VALUE,
        "window_mean gives 2 x 2 x 6, which does not fit",
    ),
    "start of another size": (conv(start=np.zeros(3, np.int32)), VALUE, "conv: start must have 4 values"),
    "start of another dtype": (conv(finish=entries(start=np.zeros(4))), TYPE, r"finish\['start'\] has dtype float64, expected int32"),
    "start beyond int32": (
        conv(finish=entries(start=np.full(4, 2**31 - 1, np.int32))),
        VALUE,
        "conv: with K = 8 start may be at most 2147483391",
    ),
    "lowest start": (conv(finish=entries(start=np.full(4, -(2**31), np.int32))), VALUE, "start may be at most"),
    "rescale with a start": (
        lambda p: p.rescale(source=SOURCE, finish=unscaled(start=np.zeros(6, np.int32))),
        VALUE,
        "rescale takes no start",
    ),
    "no unit": (conv(finish=entries(unit=0.0)), VALUE, "conv: unit must be a positive normal float32"),
    "nan unit": (conv(finish=entries(unit=math.nan)), VALUE, "conv: unit must be"),
    "text unit": (conv(finish=entries(unit="1")), TYPE, r"finish\['unit'\]: expected a float, got str"),
    "huge unit": (
        lambda p: p.rescale(source=SOURCE, finish=unscaled(unit=2e-38)),
        VALUE,
        "255 . scale / unit is not finite|a target.s scale is no normal float32",
    ),
    "floats in units": (conv(finish=entries(unit=0.5, targets=[(FLOATS, 0)])), VALUE, "a target of floats needs the unit 1"),
    "takes_min of too few channels": (
        lambda p: p.max_pool(source=SOURCE, target=(UNWRITTEN, 0), rows=ROWS, columns=ROWS, dilation=ONES, takes_min=np.ones(5, bool)),
        VALUE,
        "max_pool: takes_min must have 6 values",
    ),
    "takes_min as numbers": (
        lambda p: p.max_pool(source=SOURCE, target=(UNWRITTEN, 0), rows=ROWS, columns=ROWS, dilation=ONES, takes_min=np.ones(6, np.uint8)),
        TYPE,
        "takes_min has dtype uint8, expected bool",
    ),
    "rescale with a bias": (lambda p: p.rescale(source=SOURCE, finish=entries()), VALUE, "rescale takes no scale and no bias"),
    "rescale in place": (
        lambda p: p.rescale(source=SOURCE, finish=unscaled(targets=[(SOURCE, 0)])),
        VALUE,
        "a tensor that is read cannot be a target",
    ),
    "rescale past the channels": (
        lambda p: p.rescale(source=SOURCE, finish=unscaled(targets=[(RESULT, 4)])),
        VALUE,
        "does not fit channel 4 on",
    ),
    "gather nothing": (
        lambda p: p.gather(source=SOURCE, source_channel=0, channels=0, target=(UNWRITTEN, 0), rows=ROWS[0], columns=ROWS[0]),
        VALUE,
        "gather: 0 channels from 0 on",
    ),
    "gather too much": (
        lambda p: p.gather(source=SOURCE, source_channel=1, channels=2**31 - 1, target=(UNWRITTEN, 0), rows=ROWS[0], columns=ROWS[0]),
        VALUE,
        "gather: 2147483647 channels from 1",
    ),
    "gather no rows": (
        lambda p: p.gather(source=SOURCE, source_channel=0, channels=6, target=(UNWRITTEN, 0), rows=ROWS[0, :0], columns=ROWS[0]),
        VALUE,
        "gather: an index is outside the image",
    ),
    "gather past the image": (
        lambda p: p.gather(
            source=SOURCE,
            source_channel=0,
            channels=6,
            target=(UNWRITTEN, 0),
            rows=np.arange(1, 5, dtype=np.int32),
            columns=np.arange(4, dtype=np.int32),
        ),
        VALUE,
        "gather: an index is outside the image",
    ),
    "gather below -1": (
        lambda p: p.gather(
            source=SOURCE,
            source_channel=0,
            channels=6,
            target=(UNWRITTEN, 0),
            rows=np.arange(4, dtype=np.int32) - 2,
            columns=np.arange(4, dtype=np.int32),
        ),
        VALUE,
        "gather: an index is outside the image",
    ),
    "gather in place": (
        lambda p: p.gather(source=SOURCE, source_channel=0, channels=6, target=(SOURCE, 0), rows=ROWS[0], columns=ROWS[0]),
        VALUE,
        "the source cannot be the target",
    ),
    "gather to floats": (
        lambda p: p.gather(source=SOURCE, source_channel=0, channels=4, target=(FLOATS, 0), rows=ROWS[0], columns=ROWS[0]),
        VALUE,
        "gather: tensor 2 holds floats",
    ),
    "unwritten output": (lambda p: p.output(tensor=RESULT, nhwc=True), VALUE, "output: no step has written channel 0 of tensor 4"),
    "output of no tensor": (lambda p: p.output(tensor=-1, nhwc=True), VALUE, "output: there is no tensor -1"),
    "output in no order": (lambda p: p.output(tensor=SOURCE, nhwc=1), TYPE, "nhwc: expected a bool, got int"),
    "finalize without outputs": (lambda p: p.finalize(1, False), VALUE, "the plan has no output"),
    "run too early": (lambda p: p.run(np.zeros((1, 6, 4, 4), F32)), VALUE, "the plan is not finalized"),
    "profile too early": (lambda p: p.profile(np.zeros((1, 6, 4, 4), F32)), VALUE, "the plan is not finalized"),
}


def two_inputs() -> Any:
    """Codes and floats, each handed out as codes."""
    plan = _core.Plan()
    ids = [plan.codes(2, 2, 3, 8, 0, 1.0), plan.codes(2, 2, 3, 8, 128, 1.0)]
    plan.input_codes(tensor=ids[0], nhwc=False)
    plan.input_floats(channels=3, height=2, width=2, targets=[ids[1]])
    for i in (0, 1):
        plan.output(tensor=ids[i], nhwc=False)
    return plan


def test_a_plan_of_two_inputs() -> None:
    plan = two_inputs()
    with pytest.raises(ValueError, match="inputs come before all other steps"):
        plan.input_codes(tensor=plan.codes(2, 2, 3, 8, 0, 1.0), nhwc=False)
    plan.finalize(2, True)
    rng = np.random.default_rng(0)
    codes, floats = rng.integers(0, 256, (5, 3, 2, 2)).astype(np.uint8), rng.integers(-128, 128, (5, 3, 2, 2)).astype(F32)
    first, second = plan.run((codes, floats))
    assert (first == codes).all()
    assert (second == floats + 128).all()
    for wrong, kind, message in [
        (codes, ValueError, "x has 5 arrays, expected 2"),
        ([codes], ValueError, "x has 1 arrays, expected 2"),
        (None, TypeError, "x"),
        ([codes, None], TypeError, "x: expected a numpy array, got NoneType"),
        ([codes, codes], TypeError, "dtype"),
        ([codes, floats[:4]], ValueError, r"expected \(5, 3, 2, 2\)"),
    ]:
        with pytest.raises(kind, match=message):
            plan.run(wrong)
    with pytest.raises(ValueError, match="shares memory with x"):
        plan.run([codes, floats], outputs=[codes, second])


@pytest.mark.parametrize(("call", "kind", "message"), CASES.values(), ids=CASES.keys())
def test_a_refused_call_leaves_no_trace(
    call: Callable[[Any], Any], kind: type[Exception], message: str, whole: tuple[Array, list[Array]]
) -> None:
    plan = _core.Plan()
    begin(plan)
    before = plan.steps(), plan.weight_bytes
    with pytest.raises(kind, match=message) as caught:
        call(plan)
    assert type(caught.value) is kind
    assert (plan.steps(), plan.weight_bytes) == before
    go_on(plan)
    plan.finalize(2, False)
    x, want = whole
    for g, w in zip(plan.run(x), want, strict=True):
        assert_exact(g, w, "output")


def first_input(**changes: Any) -> Callable[[Any], Any]:
    arguments = {"channels": 6, "height": 4, "width": 4, "targets": [SOURCE, OTHER]} | changes
    return lambda plan: plan.input_floats(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (first_input(targets=[]), r"input: expected 1\.\.4 targets, got 0"),
        (first_input(targets=[SOURCE] * 5), r"input: expected 1\.\.4 targets, got 5"),
        (first_input(targets=[SOURCE, SOURCE]), "input: channel 0 of tensor 0 is written twice"),
        (first_input(targets=[SOURCE, 5]), "input: there is no tensor 5; the plan has 3"),
        (first_input(channels=5), "input: target 0 has 6 channels, expected 5"),
        (first_input(height=5), "input gives 5 x 4 x 6, which does not fit channel 0 on of tensor 0, 4 x 4 x 6"),
        (first_input(width=0), "image 4 x 0 x 6: each side must be in"),
        (lambda plan: plan.input_codes(tensor=2, nhwc=True), "input: tensor 2 holds floats"),
        (lambda plan: plan.input_codes(tensor=-3, nhwc=True), "input: there is no tensor -3"),
        (lambda plan: plan.output(tensor=0, nhwc=True), "output: no step has written channel 0 of tensor 0"),
        (lambda plan: plan.finalize(1, False), "the plan has no input"),
    ],
)
def test_refused_inputs(call: Callable[[Any], Any], message: str) -> None:
    plan = _core.Plan()
    plan.codes(4, 4, 6, 4, 8, 0.5)
    plan.codes(4, 4, 6, 4, 8, 0.5)
    plan.floats(4, 4, 6)
    with pytest.raises(ValueError, match=message):
        call(plan)
    plan.input_floats(channels=6, height=4, width=4, targets=[SOURCE, OTHER])
    plan.output(tensor=OTHER, nhwc=True)
    plan.finalize(1, False)
    assert_exact(plan.run(np.ones((1, 6, 4, 4), F32))[0], np.full((1, 4, 4, 6), 10, np.uint8), "codes")


def test_channels_that_are_read_with_and_without_pads() -> None:
    plan = _core.Plan()
    source, first, second = plan.codes(4, 4, 2, 4, 0, 1.0), plan.floats(4, 3, 4), plan.floats(4, 3, 4)
    plan.input_codes(tensor=source, nhwc=True)
    for_one = entries(targets=[(first, 0)])
    plan.conv(
        source=source,
        source_channel=0,
        weights=_core.pack(np.ones((4, 4), np.int8), 2),
        kernel=(1, 2),
        stride=ONES,
        padding=NONE,
        dilation=ONES,
        weight_zero=0,
        finish=for_one,
        method=None,
    )
    with pytest.raises(ValueError, match="tensor 0 is read both with and without padded channels"):
        plan.conv(
            source=source,
            source_channel=0,
            weights=_core.pack(np.ones((8, 4), np.int8), 2),
            kernel=(1, 2),
            stride=ONES,
            padding=NONE,
            dilation=ONES,
            weight_zero=0,
            finish=entries(targets=[(second, 0)]),
            method=None,
        )
    plan.conv(
        source=source,
        source_channel=0,
        weights=_core.pack(np.ones((4, 4), np.int8), 2),
        kernel=(1, 2),
        stride=ONES,
        padding=NONE,
        dilation=ONES,
        weight_zero=0,
        finish=entries(targets=[(second, 0)]),
        method=None,
    )
    plan.output(tensor=second, nhwc=True)
    plan.finalize(1, False)
    assert_exact(plan.run(np.ones((1, 4, 4, 2), np.uint8))[0], np.full((1, 4, 3, 4), 2, F32), "sums")


@pytest.mark.parametrize(
    ("group", "throughput", "tune", "kind", "message"),
    [
        (0, False, False, ValueError, r"group = 0 is outside 1\.\.65536"),
        (65537, False, False, ValueError, "group = 65537"),
        (2**40, False, False, ValueError, "group = 1099511627776"),
        (None, False, False, TypeError, "group: expected an integer, got NoneType"),
        (1, 1, False, TypeError, "throughput: expected a bool, got int"),
        (1, False, None, TypeError, "tune: expected a bool, got NoneType"),
    ],
)
def test_refused_finalize(group: Any, throughput: Any, tune: Any, kind: type[Exception], message: str) -> None:
    plan = _core.Plan()
    begin(plan)
    go_on(plan)
    with pytest.raises(kind, match=message):
        plan.finalize(group, throughput, tune)
    plan.finalize(1, False)
    with pytest.raises(ValueError, match="the plan is finalized"):
        plan.finalize(1, False)
    for call in (conv(), lambda p: p.codes(4, 4, 4, 4, 0, 1.0), lambda p: p.floats(4, 4, 4), lambda p: p.output(tensor=0, nhwc=True)):
        with pytest.raises(ValueError, match="the plan is finalized"):
            call(plan)


def test_buffers_beyond_all_memory() -> None:
    plan = _core.Plan()
    channels = 2**24
    source, result = plan.codes(1, 1, channels, 1, 0, 1.0), plan.codes(8193, 8193, 1, 1, 0, 1.0)
    plan.input_codes(tensor=source, nhwc=True)
    one = entries(scale=np.ones(1, F32), bias=np.zeros(1, F32), targets=[(result, 0)])
    plan.conv(
        source=source,
        source_channel=0,
        weights=bipolar(channels, 1),
        kernel=ONES,
        stride=ONES,
        padding=(4096,) * 4,
        dilation=ONES,
        weight_zero=0,
        finish=one,
        method="direct",
    )
    plan.output(tensor=result, nhwc=True)
    for group in (1, 65536):
        with pytest.raises(ValueError, match=f"the buffers of the plan take more than 64 TiB with group = {group}"):
            plan.finalize(group, False)
    with pytest.raises(ValueError, match="the plan is not finalized"):
        plan.run(np.zeros((1, 1, 1, channels), np.uint8))


@pytest.mark.skipif("avx2" not in ulp.available_isas(), reason="needs AVX2")
def test_finalize_can_be_repeated_after_a_failure(whole: tuple[Array, list[Array]]) -> None:
    plan = _core.Plan()
    begin(plan)
    go_on(plan)
    unused = plan.floats(2, 2, 4)
    ones = _core.pack(np.ones((72, 4), np.int8), 3)
    plan.conv(
        source=OTHER,
        source_channel=0,
        weights=ones,
        kernel=(3, 3),
        stride=ONES,
        padding=NONE,
        dilation=ONES,
        weight_zero=0,
        finish=entries(targets=[(unused, 0)]),
        method="winograd",
    )
    ulp.set_isa("baseline")
    with pytest.raises(ValueError, match="method 'winograd' cannot run here: it needs avx2"):
        plan.finalize(2, False)
    ulp.set_isa("avx2")
    plan.finalize(2, False)
    for g, w in zip(plan.run(whole[0]), whole[1], strict=True):
        assert_exact(g, w, "output")


def test_refused_runs(whole: tuple[Array, list[Array]]) -> None:
    plan = _core.Plan()
    begin(plan)
    go_on(plan)
    plan.finalize(2, True)
    x, want = whole

    def outputs(**changes: Any) -> list[Any]:
        made: list[Any] = [np.zeros_like(w) for w in want]
        for at, value in changes.items():
            made[int(at[1:])] = value
        return made

    read_only = np.zeros_like(want[0])
    read_only.flags.writeable = False
    memory = np.zeros(x.nbytes + 4, np.uint8)
    shared = memory[: x.nbytes].view(F32).reshape(x.shape)
    inside = memory[: want[0].nbytes].view(F32).reshape(want[0].shape)
    askew = np.zeros(x.nbytes + 1, np.uint8)[1:].view(F32).reshape(x.shape)
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (x.astype(np.float64), None, TypeError, "x has dtype float64, expected float32"),
        (x.astype(">f4"), None, TypeError, "x has dtype >f4"),
        (x[0], None, ValueError, r"x has shape \(6, 4, 4\), expected \(N, 6, 4, 4\)"),
        (x[:, :5], None, ValueError, r"x has shape \(3, 5, 4, 4\)"),
        (x[::2], None, ValueError, "x must be C-contiguous"),
        (x.swapaxes(2, 3), None, ValueError, "x must be C-contiguous"),
        (askew, None, ValueError, "x must be aligned"),
        (None, None, TypeError, "x: expected a numpy array, got NoneType"),
        (x.tolist(), None, TypeError, "x: expected a numpy array, got list"),
        (x, 5, TypeError, "outputs: expected a sequence of arrays, got int"),
        (x, {}, TypeError, "outputs: expected a sequence of arrays, got dict"),
        (x, outputs()[:-1], ValueError, "outputs has 3 arrays, expected 4"),
        (x, outputs(_0=None), TypeError, "outputs: expected numpy arrays, got NoneType"),
        (x, outputs(_0=want[0].tolist()), TypeError, "outputs: expected numpy arrays, got list"),
        (x, outputs(_1=want[1].astype(np.int8)), TypeError, "outputs has dtype int8, expected uint8"),
        (x, outputs(_0=want[0][:2]), ValueError, r"outputs has shape \(2, 4, 4, 4\), expected \(3, 4, 4, 4\)"),
        (x, outputs(_0=np.asfortranarray(want[0])), ValueError, "outputs must be C-contiguous"),
        (x, outputs(_0=read_only), ValueError, "outputs: an array is read-only"),
        (shared, outputs(_0=inside), ValueError, "outputs: an array shares memory with x"),
        (x, outputs(_1=memory[: want[1].size].reshape(want[1].shape), _0=inside), ValueError, "outputs: two arrays share memory"),
    ]
    for array, out, kind, message in cases:
        with pytest.raises(kind, match=message):
            plan.run(array, out)
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = x.copy()
        spoilt[2, 5, 3, 3] = bad
        with pytest.raises(_core.NotFinite, match="the input holds a NaN or an infinity"):
            plan.run(spoilt)
    for g, w in zip(plan.run(x), want, strict=True):
        assert_exact(g, w, "output")


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("nhwc", [False, True])
def test_codes_out_of_range(bits: int, nhwc: bool) -> None:
    plan = _core.Plan()
    source = plan.codes(3, 5, 7, bits, 0, 1.0)
    plan.input_codes(tensor=source, nhwc=nhwc)
    plan.output(tensor=source, nhwc=nhwc)
    plan.finalize(1, False)
    x = np.full((2, 3, 5, 7) if nhwc else (2, 7, 3, 5), 2**bits - 1, np.uint8)
    assert_exact(plan.run(x)[0], x, "codes")
    x[1, 1, 2, 3] = 2**bits
    with pytest.raises(_core.CodeOutOfRange, match=f"the input holds codes beyond {2**bits - 1}"):
        plan.run(x)
