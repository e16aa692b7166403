"""Attention with the batch as the first side of all its tensors.

torch's own MultiheadAttention turns what it reads to (T, N, C) and merges the batch with the heads, or with the rows. Then nothing keeps
the images of a batch apart, and its linear layers cannot be integers. The same function is exported in another form, and so are
scaled_dot_product_attention and Brevitas' QuantMultiheadAttention.
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
from torch.overrides import TorchFunctionMode


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
        with _Products():
            yield
    finally:
        for module in changed:
            del module.forward


@contextlib.contextmanager
def brevitas_batch_first(model: Any) -> Iterator[None]:
    """The model whose layers of Brevitas' attention are computed so; afterwards it is as it was."""
    changed = [
        module
        for module in model.modules()
        if type(module).__name__ == "QuantMultiheadAttention" and type(module).__module__.startswith("brevitas.") and _is_plain(module)
    ]
    for module in changed:
        module.forward = functools.partial(_quantized_forward, module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _quantized_forward(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """QuantMultiheadAttention.forward, in evaluation."""
    same = key is query and value is key
    fits = all(type(x) is Tensor and x.dim() == 3 for x in (query, key, value)) and (same or module.in_proj is None)
    if not fits or not _of_tensors(module):
        given: Any = (query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights)
        result: tuple[Tensor, Tensor | None] = type(module).forward(module, *given)
        return result
    read = [x if module.batch_first else x.transpose(0, 1) for x in (query, key, value)]
    if module.in_proj is not None:
        parts = module.in_proj(read[0]).chunk(3, -1)
    else:
        parts = [layer(x) for layer, x in zip((module.q_proj, module.k_proj, module.v_proj), read, strict=True)]
    # Sizes are numbers, so that the exporter by tracing writes no nodes that compute them.
    heads, depth = module.num_heads, module.head_dim
    q, k, v = (x.reshape(-1, int(x.shape[1]), heads, depth).transpose(1, 2) for x in parts)
    q, k = module.q_scaled_quant(q / math.sqrt(depth)), module.k_transposed_quant(k.transpose(-2, -1))
    scores = q @ k
    if (mask := _mask(scores, attn_mask, key_padding_mask)) is not None:
        scores = scores + mask
    weights = module.attn_output_weights_quant(module.softmax_input_quant(scores).softmax(-1))
    y = module.out_proj((weights @ module.v_quant(v)).transpose(1, 2).reshape(-1, int(read[0].shape[1]), heads * depth))
    y = y if module.batch_first else y.transpose(0, 1)
    if not need_weights:
        return y, None
    return y, weights.mean(1) if average_attn_weights else weights


def _of_tensors(module: Any) -> bool:
    """Whether all activations have one scale per tensor, so that the shape of what is quantized does not matter."""
    names = ("softmax_input_quant", "attn_output_weights_quant", "q_scaled_quant", "k_transposed_quant", "v_quant")
    proxies = [getattr(module, name).act_quant for name in names]
    proxies += [layer.input_quant for layer in (module.in_proj, module.q_proj, module.k_proj, module.v_proj) if layer is not None]
    for proxy in proxies:
        if getattr(proxy, "is_quant_enabled", False):
            scale = proxy.scale() if callable(getattr(proxy, "scale", None)) else None
            if scale is None or scale.numel() != 1:
                return False
    return True


class _Products(TorchFunctionMode):
    """scaled_dot_product_attention of (N, heads, T, C) as two products and a softmax: torch's form in ONNX merges batch and heads."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or kwargs.get("enable_gqa"):
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
        read = given["query"], given["key"], given["value"]
        if any(x.dim() != 4 or x.shape[:2] != read[0].shape[:2] for x in read):
            return func(*args, **kwargs)
        return _scaled_dot_product(*read, given.get("attn_mask"), causal=given.get("is_causal", False), scale=given.get("scale"))


def _scaled_dot_product(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, *, causal: bool, scale: float | None
) -> Tensor:
    """functional.scaled_dot_product_attention, without dropout."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        mask = _added(~attn_mask if attn_mask.dtype == torch.bool else attn_mask, scores)
        scores = scores + (_of_batch(mask, scores) if mask.dim() == 2 else mask)
    return scores.softmax(-1) @ value


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

    found = None
    if attn_mask is not None:
        found = _added(attn_mask, scores)
        # One for all images is a tensor of the batch, too: constants have one value per channel in plans.
        found = found.unflatten(0, (-1, scores.shape[1])) if found.dim() == 3 else _of_batch(found, scores)
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, scores)[:, None, None]
        found = padding if found is None else found + padding
    return found


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    """A mask as what is added: minus infinity where a boolean one is True."""
    if mask.dtype != torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf)


def _of_batch(mask: Tensor, scores: Tensor) -> Tensor:
    """A mask (T, S) for all images as a tensor of the batch: constants in plans have one value per channel."""
    return mask.expand(scores.shape[0], 1, *mask.shape)
