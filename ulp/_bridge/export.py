"""`ulp.export`: a quantized network as an ONNX file for others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ulp import nn, onnx
from ulp._files import replace_file

from .compile import is_torch
from .protos import is_quantized, read_proto
from .qdq import to_qdq


def export(model: Any, path: str | os.PathLike[str], example: Any = None, *, format: str = "qdq") -> None:  # noqa: A002  # qonnx's and torch's word
    """Write a quantized network to an ONNX file, which `ulp.load` reads back to the same results, and others read, too.

    model: what `ulp.compile` or `Quantized.load` returned (not what was loaded from a file), a `ulp.quantize.Quantized`, a torch model of
        quantized layers, as `ulp.torch.convert` makes it, a network of ulp.nn, or a quantized ONNX model as path, bytes or ModelProto.
    path: of the file; what was there before is replaced as a whole.
    example: an input, as for `ulp.compile`; needed for torch models and, also just its shape, for networks of ulp.nn.
    format: "qdq": ONNX's QuantizeLinear and DequantizeLinear, for onnxruntime and others. Weights are INT8, or INT4 where that holds them
        (opset 21); activations bytes, between the bounds of a Clip if they have fewer bits (QCDQ). onnxruntime's optimizations round
        biases to its integers; without them it computes the same but for the rounding of float32 sums.
        "qonnx": QONNX's Quant and BipolarQuant, for qonnx, FINN and Brevitas' tools; quantizers that the model has as QuantizeLinear stay.

    A network of ulp.nn computes the same, but for float32 roundings where layers are merged: codes differ by at most one, next to the
    middle between two. Raises OnnxError or LayerError, ValueErrors that name node or layer, for what cannot be expressed: in "qdq" bipolar
    codes (-1, +1), quantizers of more than 8 bits, roundings but to the nearest; in a network of ulp.nn a ConvTranspose2d, and averages
    over windows of several sizes; and for a model of floats.
    """
    if format not in ("qdq", "qonnx"):
        raise ValueError(f"format={format!r}: expected 'qdq' or 'qonnx'")
    proto = _proto(model, example)
    if not is_quantized(proto):
        raise onnx.OnnxError("the model is of floats: quantize it first, by ulp.compile(model, example, bits=, calibrate=)")
    data = (to_qdq(proto) if format == "qdq" else proto).SerializeToString()
    replace_file(Path(path), lambda file: file.write(data))


def _proto(model: Any, example: Any) -> Any:
    """The model as QONNX or QDQ."""
    if isinstance(model, nn.Module) or is_torch(model):
        if example is None:
            raise TypeError("example is missing: pass an input of the model")
        if isinstance(model, nn.Module):
            from .nn_source import from_nn

            return from_nn(model, example)
        from .torch_source import exported

        return exported(model, example).proto
    if example is not None:
        raise TypeError(f"example for a {type(model).__name__}, whose inputs are known")
    if isinstance(model, onnx.OnnxNetwork):
        proto = model.source if model.quantized is None else model.quantized.model
        if proto is None:
            raise TypeError("this network was loaded from a file: export that file, or what the network was compiled from")
        return proto
    if isinstance(model, nn.CompiledNetwork):
        raise TypeError("a compiled network is a plan: export the network of ulp.nn that it was compiled from")
    if hasattr(model, "model") and hasattr(model, "assignment"):  # ulp.quantize.Quantized
        return model.model
    return read_proto(model)
