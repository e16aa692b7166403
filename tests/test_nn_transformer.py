"""Layers of transformers in ulp.nn, one by one and compiled: normalizations, attention, linear layers with a range for each row."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Array

from ulp import nn

F32 = np.float32


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


class Block(nn.Module):
    """A layer of BERT, or with norm_first of GPT, on (N, T, C)."""

    def __init__(self, width: int = 24, heads: int = 3, bits: int = 8, norm_first: bool = False) -> None:
        super().__init__()
        options: dict[str, Any] = {"bits": bits, "act_bits": 8, "dynamic": "row"}
        self.self_attn = nn.MultiheadAttention(width, heads, **options)
        self.linear1, self.linear2 = nn.Linear(width, 2 * width, **options), nn.Linear(2 * width, width, **options)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gelu, self.add = nn.GELU(act_bits=None), nn.Add(None)
        self.norm_first = norm_first

    def forward(self, x: Any, mask: Any = None) -> Any:
        if self.norm_first:
            x = self.add(self.self_attn(self.norm1(x), mask=mask), x)
            return self.add(self.linear2(self.gelu(self.linear1(self.norm2(x)))), x)
        x = self.norm1(self.add(self.self_attn(x, mask=mask), x))
        return self.norm2(self.add(self.linear2(self.gelu(self.linear1(x))), x))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("act_bits", [4, 8])
def test_rows_have_ranges_of_their_own(bits: int, act_bits: int) -> None:
    layer = nn.Linear(19, 7, bits=bits, act_bits=act_bits, dynamic="row")
    x = normal(2, 5, 19) * 10.0 ** np.arange(-2, 3, dtype=F32)[:, None]
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    step = (high - low) / (2**act_bits - 1)
    got = layer(x)
    want = x.astype(np.float64) @ layer.weight.T.astype(np.float64) + layer.bias
    assert (np.abs(got - want) <= (0.51 * step[..., None] * np.abs(layer.weight).sum(1)) + 1e-4).all()
    np.testing.assert_array_equal(layer(x[1, 3]), got[1, 3])
    np.testing.assert_array_equal(layer(x[0]), got[0])
    np.testing.assert_array_equal(nn.compile(layer, x, tune=False)(x), got)
    np.testing.assert_array_equal(nn.compile(layer, x[0], tune=False)(x[0]), got[0])
    assert layer(np.zeros((0, 19), F32)).shape == (0, 7)
    again = nn.Linear(19, 7, bits=bits, act_bits=act_bits, dynamic="row")
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again(x), got)


def test_normalizations_are_those_of_float64() -> None:
    x = normal(3, 5, 33) * 3 + 1
    norm, rms, soft = nn.LayerNorm(33), nn.RMSNorm([33], eps=1e-6), nn.Softmax()
    norm.load_state_dict({"weight": normal(33, seed=1), "bias": normal(33, seed=2)})
    rms.load_state_dict({"weight": normal(33, seed=3)})
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    e = np.exp(wide - wide.max(-1, keepdims=True))
    wants = [
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * norm.weight + norm.bias,
        wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * rms.weight,
        e / e.sum(-1, keepdims=True),
    ]
    for layer, want in zip((norm, rms, soft), wants, strict=True):
        got = layer(x)
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
        np.testing.assert_array_equal(layer(x[0]), got[0])
        np.testing.assert_array_equal(layer(x[0, 0]), got[0, 0])
        np.testing.assert_array_equal(nn.compile(layer, x, tune=False)(x), got)
        np.testing.assert_array_equal(nn.compile(layer, x[0], tune=False)(x[0]), got[0])
        assert layer(x[:0]).shape == (0, 5, 33)


@pytest.mark.parametrize("masked", ["", "row", "all"])
def test_attention_is_that_of_float64(masked: str) -> None:
    layer = nn.MultiheadAttention(24, 3, kdim=10, vdim=9, bits=8, act_bits=8)
    q, k, v = normal(2, 5, 24), normal(2, 7, 10, seed=1), normal(2, 7, 9, seed=2)
    mask = None
    if masked:
        mask = np.random.default_rng(5).random((2, 5, 7) if masked == "all" else (2, 7)) < 0.4
        mask[..., 2] = False
    given = [] if mask is None else [mask]
    got = layer(q, k, v, *given)
    heads = [x.astype(np.float64).reshape(2, -1, 3, 8).transpose(0, 2, 1, 3) for x in (layer.q_proj(q), layer.k_proj(k), layer.v_proj(v))]
    scores = heads[0] @ heads[1].transpose(0, 1, 3, 2) / np.sqrt(8)
    if mask is not None:
        scores = np.where(mask[:, None] if masked == "all" else mask[:, None, None], -np.inf, scores)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (e / e.sum(-1, keepdims=True) @ heads[2]).transpose(0, 2, 1, 3).reshape(2, 5, 24)
    np.testing.assert_allclose(got, layer.out_proj(mixed.astype(F32)), rtol=0, atol=0.02)
    np.testing.assert_allclose(got, mixed @ layer.out_proj.weight.T + layer.out_proj.bias, rtol=0, atol=0.02)
    floats = [np.where(mask, F32(-np.inf), F32(0))] if mask is not None else []
    np.testing.assert_array_equal(layer(q, k, v, *floats), got)
    np.testing.assert_array_equal(nn.compile(layer, (q, k, v, *floats), tune=False)(q, k, v, *floats), got)
    np.testing.assert_array_equal(layer(q[1], k[1], v[1], *(m[1] for m in given)), got[1])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_block_is_one_plan(norm_first: bool, bits: int, tmp_path: Path) -> None:
    block = Block(bits=bits, norm_first=norm_first)
    x = normal(3, 6, 24)
    mask = np.where(np.arange(6) < np.array([[6], [4], [1]]), F32(0), F32(-np.inf))
    for given in ((x,), (x, mask)):
        want = block(*given)
        compiled = nn.compile(block, given, tune=False)
        got = compiled(*given)
        # Queries, keys and values are one product, sums a part of normalizations, and GELU of a product.
        steps = [step["name"] for step in compiled._plan.steps()]
        assert sum(name.startswith("dynamic") for name in steps) == 4, steps
        np.testing.assert_array_equal(got, want)
        compiled.save(tmp_path / "block.ulp")
        np.testing.assert_array_equal(nn.load(tmp_path / "block.ulp")(*given), got)
    again = Block(bits=bits, norm_first=norm_first)
    again.load_state_dict(block.state_dict())
    np.testing.assert_array_equal(again(x), block(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(block))(x), block(x))


def test_groups_and_fixed_ranges_in_a_block() -> None:
    block = Block()
    x = normal(2, 6, 24)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer = getattr(block.self_attn, name)
        setattr(block.self_attn, name, nn.GroupedLinear.from_float(layer, bits=4, codebook="nf4", group_size=8))
    block.linear1 = nn.Linear(24, 48, bits=4, act_bits=8)
    block.calibrate([x], progress=False)
    np.testing.assert_array_equal(nn.compile(block, x, tune=False)(x), block(x))


def test_sequences_and_masks_at_their_limits() -> None:
    layer, x = nn.MultiheadAttention(12, 3, bits=4), normal(2, 5, 12)
    assert layer(x[:, :0]).shape == (2, 0, 12)
    assert layer(x[:0], mask=np.zeros((0, 5), bool)).shape == (0, 5, 12)
    with pytest.raises(ValueError, match="do not fit"):
        layer(x, x[:, :0])
    mask = np.zeros((2, 5))
    mask[:, 2:] = np.finfo(np.float64).min
    np.testing.assert_array_equal(layer(x, mask=mask), layer(x, mask=mask < 0))
    nothing = np.full((2, 5), -np.inf, F32)
    nothing[0] = 0
    block = Block(12, 3)
    compiled = nn.compile(block, (x, nothing), tune=False)
    np.testing.assert_array_equal(compiled(x, mask), block(x, mask))  # of float64, whose least number is -inf here
    calls: list[Callable[[], object]] = [lambda: layer(x, mask=nothing), lambda: block(x, nothing), lambda: compiled(x, nothing)]
    for call in calls:
        with pytest.raises(ValueError, match="NaN"):  # no word is left for the second sequence
            call()


def test_torch_gives_its_weights() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for norm_first in (False, True):
        theirs = torch.nn.TransformerEncoderLayer(24, 3, 48, activation="gelu", batch_first=True, norm_first=norm_first).eval()
        block = Block(norm_first=norm_first)
        block.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 6, 24)
        padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
        with torch.no_grad():
            want = theirs(x, src_key_padding_mask=padding)
        assert (block(x, padding) - want)[~padding].abs().max() < 0.1
    for kdim in (None, 10):
        theirs = torch.nn.MultiheadAttention(24, 3, kdim=kdim, bias=kdim is None)
        layer = nn.MultiheadAttention.from_float(theirs, bits=8, act_bits=8)
        q, k, v = torch.randn(5, 2, 24), torch.randn(7, 2, kdim or 24), torch.randn(7, 2, 24)
        with torch.no_grad():
            want = theirs(q, k, v)[0].transpose(0, 1)
        assert (layer(*(x.transpose(0, 1) for x in (q, k, v))) - want).abs().max() < 0.05
    for make, ours in ((torch.nn.LayerNorm, nn.LayerNorm), (torch.nn.RMSNorm, nn.RMSNorm)):
        norm = make(24)
        torch.nn.init.normal_(norm.weight)
        assert (ours.from_float(norm)(x) - norm(x)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Linear(3, 3, bits=4, dynamic="column"),  # type: ignore[arg-type]
            "expected True, False or 'row'",
        ),
        (lambda: nn.Linear(3, 3, bits=4, dynamic="row", act_signed=True), "the range of each row"),
        (lambda: nn.LayerNorm((3, 4)), "only the last side"),
        (lambda: nn.Linear(3, 3, bits=4, dynamic=None), "dynamic=None: expected True, False or 'row'"),  # type: ignore[arg-type]
        (lambda: nn.RMSNorm(3, eps=-1), "eps=-1"),
        (lambda: nn.LayerNorm(3, eps="1"), "eps='1': expected a number, not str"),  # type: ignore[arg-type]
        (lambda: nn.LayerNorm(3.0), "normalized_shape=3.0: expected an integer"),  # type: ignore[arg-type]
        (lambda: nn.MultiheadAttention(10, 3, bits=4), "is not divisible"),
        (lambda: nn.MultiheadAttention(12, 3, batch_first=False, bits=4), "batch_first=False"),
        (lambda: nn.Mish(act_bits=None), "is a function of codes"),
        (lambda: nn.Add(None, act_signed=True), "quantizes nothing"),
        (lambda: nn.GELU(act_bits=None, dynamic=True), "quantizes nothing"),
        (lambda: nn.LayerNorm(4)(np.zeros((2, 3), F32)), r"normalized_shape=\[4\]"),
        (lambda: nn.Softmax(1)(np.zeros((2, 3, 4), F32)), "only the last side"),
        (lambda: nn.MultiheadAttention(12, 3, bits=4)(normal(2, 5, 12), mask=np.zeros((2, 4), bool)), "mask has shape"),
        (lambda: nn.MultiheadAttention(12, 3, bits=4)(normal(2, 5, 12), mask=np.zeros((2, 5), np.int32)), "expected floats, or bools"),
        (lambda: nn.compile(nn.LayerNorm(3), (1, 4, 3, 3), tune=False), "takes"),
        (lambda: nn.Linear(3, 3, bits=4, dynamic="row")(np.full((2, 3), np.nan, F32)), "NaN"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()
