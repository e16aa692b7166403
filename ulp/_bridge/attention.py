"""Attention with the batch as the first side of all its tensors.

torch's own MultiheadAttention turns what it reads to (T, N, C) and merges the batch with the heads, or with the rows. Then nothing keeps
the images of a batch apart, and its linear layers cannot be integers. The same function is exported in
another form.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@contextlib.contextmanager
def batch_first(model: Any) -> Iterator[None]:
    """The model whose attention is computed so; afterwards it is as it was."""
    changed = [
        module
        for module in model.modules()
        if type(module) is nn.MultiheadAttention and "forward" not in vars(module) and _is_plain(module)
    ]
    for module in changed:
        module.forward = functools.partial(_forward, module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _is_plain(module: Any) -> bool:
    return module.bias_k is None and module.bias_v is None and not module.add_zero_attn and "forward" not in vars(module)


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """nn.MultiheadAttention.forward, in evaluation."""
    if query.dim() != 3:
        given: Any = (query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
        result: tuple[Tensor, Tensor | None] = nn.MultiheadAttention.forward(module, *given)
        return result
    same = key is query and value is key
    read = [x if module.batch_first else x.transpose(0, 1) for x in (query, key, value)]
    q, k, v = (x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for x in _projected(module, read, same=same))
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if (mask := _mask(scores, attn_mask, key_padding_mask)) is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    y = module.out_proj((weights @ v).transpose(1, 2).flatten(2))
    y = y if module.batch_first else y.transpose(0, 1)
    if not need_weights:
        return y, None
    return y, weights.mean(1) if average_attn_weights else weights


def _projected(module: Any, read: list[Tensor], *, same: bool) -> Any:
    """Query, key and value (N, T, C) behind their linear layers; of one tensor by one layer."""
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    if not module._qkv_same_embed_dim:
        weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    elif same:
        return functional.linear(read[0], module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    else:
        weights = module.in_proj_weight.chunk(3)
    return [functional.linear(x, weight, bias) for x, weight, bias in zip(read, weights, biases, strict=True)]


def _mask(scores: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> Tensor | None:
    """What is added to the scores (N, heads, T, S). attn_mask: (T, S) or (N heads, T, S); key_padding_mask: (N, S)."""

    def added(mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(scores.dtype)
        return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf)

    found = None
    if attn_mask is not None:
        found = added(attn_mask)
        found = found.unflatten(0, (-1, scores.shape[1])) if found.dim() == 3 else found
    if key_padding_mask is not None:
        padding = added(key_padding_mask)[:, None, None]
        found = padding if found is None else found + padding
    return found
