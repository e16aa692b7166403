"""Brevitas' QuantMultiheadAttention through ulp.compile: one plan, with Brevitas' results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ulp

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Brevitas and of the exporter


class Layer(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is not there for mypy
    """Attention and a sum; of one tensor, or of three where the projections are apart."""

    def __init__(self, *, batch_first: bool, packed: bool, masked: bool) -> None:
        from brevitas.nn import QuantMultiheadAttention

        super().__init__()
        biases = {"in_proj_bias_quant": None, "out_proj_bias_quant": None}
        self.attn = QuantMultiheadAttention(
            24, 3, batch_first=batch_first, packed_in_proj=packed, in_proj_weight_bit_width=4, out_proj_weight_bit_width=4, **biases
        )
        self.masked = masked

    def forward(self, x: Any, mask: Any = None) -> Any:
        first = x if self.attn.batch_first else x.transpose(0, 1)
        y = self.attn(first, first, first, attn_mask=mask if self.masked else None, need_weights=False)[0]
        return x + (y if self.attn.batch_first else y.transpose(0, 1))


@pytest.mark.parametrize(("batch_first", "packed", "masked"), [(True, True, False), (True, False, True), (False, True, False)])
def test_attention_is_one_plan(batch_first: bool, packed: bool, masked: bool) -> None:
    torch.manual_seed(0)
    model = Layer(batch_first=batch_first, packed=packed, masked=masked)
    mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -1e4) if masked else None
    given = (torch.randn(1, 6, 24), *([mask] if masked else []))
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 6, 24), *given[1:])
    model.eval()
    x = torch.randn(1, 6, 24)
    with torch.no_grad():
        want = model(x, *given[1:])
    network = ulp.compile(model, given, progress=False)
    assert "forward" not in vars(model.attn)
    got = network(x, *given[1:])
    step = float(want.abs().max()) / 127
    assert (got - want).abs().max() < 2 * step
    assert (np.abs((got - want).numpy()) > 0.01 * step).mean() < 0.2  # only where a code is another by the rounding of float32 sums
    if not masked:
        text = str(network).splitlines()
        assert not [line for line in text[1:] if " floats " in line and "as a step of the plan" not in line], text
