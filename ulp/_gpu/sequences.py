"""Steps of sequences as `_cuda.Network` takes them: rows, products of activations, codes that are made in the call, LSTM and GRU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ulp import _core

from .builder import Builder, Fields, Tensor, pair, place_or_none

WITHOUT_FORM = {"rows": ("integers",)}
"""Optional fields of steps that only the CPU knows."""

_UNIT_K = 32  # to which groups are padded in packed weights (gemm/grouped.h)


def _strides(tensor: Tensor, steps: Any) -> list[int]:
    """Elements from an index to the next, of steps (y, x, c)."""
    return [int((y * tensor.width + x) * tensor.pixel + c) for y, x, c in np.asarray(steps, np.int64)]


def _all_strides(b: Builder, fields: Fields, names: tuple[str, ...]) -> list[int]:
    steps = np.asarray(fields["steps"]).reshape(len(names), 3, 3)
    return [stride for name, part in zip(names, steps, strict=True) for stride in _strides(b.tensors[fields[name][0]], part)]


def _largest(values: Any) -> float:
    return float(np.abs(np.asarray(values, np.float32)).max(initial=0))


def rows(b: Builder, fields: Fields) -> None:
    """Functions of rows."""
    b.network.rows(
        operands=[pair(place) for place in fields["operands"]],
        channels=int(fields["channels"]),
        groups=int(fields["groups"]),
        function=fields["function"],
        gamma=fields.get("gamma"),
        beta=fields.get("beta"),
        epsilon=float(fields.get("epsilon") or 0),
        targets=[pair(place) for place in fields["targets"]],
        divide=bool(fields["divide"]),
    )


def product(b: Builder, fields: Fields) -> None:
    """A product of two activations."""
    b.network.product(
        **{name: pair(fields[name]) for name in ("a", "b", "target")},
        sizes=[int(n) for n in fields["sizes"]],
        steps=_all_strides(b, fields, ("a", "b", "target")),
        scale=float(fields["scale"]),
        in_units=bool(fields["in_units"]),
    )


def attention(b: Builder, fields: Fields) -> None:
    """Attention of floats."""
    names = ("q", "k", "v", "target")
    b.network.attention(
        **{name: pair(fields[name]) for name in names},
        mask=place_or_none(fields.get("mask")),
        sizes=[int(n) for n in fields["sizes"]],
        values=int(fields["values"]),
        steps=_all_strides(b, fields, names),
        scale=float(fields["scale"]),
    )


def _row_product(b: Builder, packed: Any, zero: int, channels: int) -> dict[str, Any]:
    """Weights (K, N) for rows of codes, without the rows that pad K, and the sums of their columns less the zero point."""
    values = np.ascontiguousarray(_core.unpack(packed)[:channels])
    weights = b.module.Weights.from_host(values, packed.bits, b.device)
    return {"weights": weights, "zero": zero, "columns": _column_sums(values, zero)}


def _column_sums(values: npt.NDArray[Any], zero: int) -> npt.NDArray[np.int32]:
    sums: npt.NDArray[np.int64] = (values.astype(np.int64) - zero).sum(axis=0)
    return sums.astype(np.int32)


def dynamic_linear(b: Builder, fields: Fields) -> None:
    """A layer whose activations become codes in the call."""
    finish, channels = fields["finish"], b.tensors[fields["source"]].channels
    outliers = fields.get("outliers")
    outliers = np.zeros(0, np.int32) if outliers is None else np.asarray(outliers, np.int32)
    b.network.dynamic_linear(
        source=int(fields["source"]),
        product=_row_product(b, fields["weights"], int(fields["weight_zero"]), channels),
        bits=int(fields.get("bits") or 8),
        per_row=bool(fields["per_row"]),
        scale=finish["scale"],
        bias=finish["bias"],
        largest_scale=_largest(finish["scale"]),
        function=fields.get("function") or "identity",
        low=float(finish["low"]),
        high=float(finish["high"]),
        targets=[pair(place) for place in finish["targets"]],
        outlier_count=len(outliers),
        outliers=outliers,
        zeroed=np.isin(np.arange(channels), outliers).astype(np.uint8) if len(outliers) else None,
        outlier_weights=fields.get("outlier_weights"),
        method=b.method,
    )


def grouped_linear(b: Builder, fields: Fields) -> None:
    """A layer whose weights have scales in groups."""
    tensor, group = b.tensors[fields["source"]], int(fields["group"])
    packed, table = fields["weights"], fields.get("table")
    table = None if table is None or not len(table) else np.asarray(table, np.int32)
    scales = np.asarray(fields["scales"], np.float32)
    zeros, zero = fields.get("zeros"), int(fields.get("zero") or 0)
    zeros = None if zeros is None or not len(zeros) else np.asarray(zeros, np.float32)
    bias = fields.get("bias")
    bias = None if bias is None or not len(bias) else np.asarray(bias, np.float32)
    groups = -(-tensor.channels // group)
    codes = _core.unpack(packed).reshape(groups, -(-group // _UNIT_K) * _UNIT_K, packed.n)[:, :group]
    nibbles = packed.bits <= 4
    words = np.zeros((groups, -(-group // 8) * 8, packed.n), np.uint8)
    words[:, :group] = codes if nibbles else codes.astype(np.uint8) ^ 128
    centre = 128 if tensor.codes and tensor.bits == 8 else 0
    if tensor.codes and centre != tensor.zero:
        less = zero if zeros is None else zeros.astype(np.float64)[:, None]
        values = (codes.astype(np.float64) - less if table is None else table[codes]) * scales.astype(np.float64)[:, None]
        bias = _with_source_zero(values.reshape(-1, packed.n)[: tensor.channels], tensor, centre, bias)
    b.network.grouped_linear(
        source=int(fields["source"]),
        target=pair(fields["target"]),
        words=_nibble_words(words) if nibbles else _words(words.reshape(-1, packed.n)),
        n=packed.n,
        group=group,
        nibbles=nibbles,
        scales=scales,
        zeros=zeros,
        zero=zero,
        table=None if table is None else np.pad(table, (0, 16 - len(table))),
        bias=bias,
        per_group=bool(fields.get("per_group")),
        centre=centre,
    )


def _with_source_zero(values: npt.NDArray[Any], tensor: Tensor, centre: int, bias: Any) -> npt.NDArray[np.float32]:
    """The bias with what the kernel's centre of the codes lacks to their zero point, as csrc/plan/steps/grouped_linear.cpp has it."""
    sums = np.zeros(values.shape[1])
    for row in values:
        sums += row  # in the order of k
    added = np.zeros(len(sums)) if bias is None else bias.astype(np.float64)
    return (added + (centre - tensor.zero) * float(np.float32(tensor.scale)) * sums).astype(np.float32)


def _words(values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Bytes (K, N), K a multiple of 4, as words (K / 4, N) of four k each."""
    k, n = values.shape
    turned = np.ascontiguousarray(values.reshape(k // 4, 4, n).transpose(0, 2, 1))
    return turned.view(np.int32).reshape(k // 4, n)


def _nibble_words(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Codes of 4 bits (groups, K, N), K a multiple of 8, as words of eight k each: the first four in the lower halves of the bytes."""
    n = values.shape[2]
    eights = values.reshape(-1, 2, 4, n)
    return _words((eights[:, 0] | eights[:, 1] << 4).reshape(-1, n))


def recurrent(b: Builder, fields: Fields) -> None:
    """One direction of a layer of LSTM or GRU."""
    tensor, is_lstm = b.tensors[fields["source"]], fields["kind"] == "lstm"
    input_zero, zero = pair(fields["weight_zeros"])
    units = fields["input_weights"].n // (4 if is_lstm else 3)
    candidate, hidden_bias = fields.get("candidate"), fields.get("hidden_bias")
    biases = np.float32(_largest(fields["bias"])) + np.float32(0 if hidden_bias is None else _largest(hidden_bias))
    b.network.recurrent(
        source=int(fields["source"]),
        is_lstm=is_lstm,
        units=units,
        input=_row_product(b, fields["input_weights"], input_zero, tensor.channels),
        hidden_product=_word_product(fields["weights"], zero, units),
        has_candidate=candidate is not None,
        candidate=None if candidate is None else _word_product(candidate, zero, units),
        **{name: fields[name] for name in ("input_scale", "scale", "bias")},
        hidden_bias=hidden_bias,
        largest_input=_largest(fields["input_scale"]),
        largest_hidden=_largest(fields["scale"]),
        largest_bias=float(biases),
        **{name: int(fields[name]) for name in ("input_bits", "hidden_bits")},
        **{name: bool(fields[name]) for name in ("per_row", "reverse", "divide")},
        hidden_scale=float(fields.get("hidden_scale") or 0),
        hidden_zero=int(fields.get("hidden_zero") or 0),
        targets=[pair(place) for place in fields["targets"]],
        **{name: place_or_none(fields.get(name)) for name in ("hidden", "cell", "lengths", "final_hidden", "final_cell")},
    )


def _word_product(packed: Any, zero: int, units: int) -> dict[str, Any]:
    """Weights as bytes, which are the weights less their zero point and less `base`."""
    values = _core.unpack(packed)[:units].astype(np.int32) - zero
    base = 0 if values.min() >= -128 and values.max() < 128 else (0 if packed.signed else 128) - zero
    made = np.zeros((-(-units // 4) * 4, packed.n), np.int8)
    made[:units] = values - base
    return {"words": _words(made), "columns": made.astype(np.int32).sum(axis=0, dtype=np.int32), "base": base}
