"""`ulp.compile`: a model of any framework, of floats or quantized, to a network that runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from ulp import nn, onnx
from ulp import quantize as quantizer
from ulp._options import check_options
from ulp.nn.compiled import Hint

from . import quantizing
from .protos import is_quantized, read_proto

_LIBRARIES = {
    "ulp": "layers of ulp.torch",
    "brevitas": "layers of Brevitas",
    "torch_ao": "layers of torch.ao",
    "pt2e": "a graph that pt2e quantized",
    "torchao": "layers of torchao",
}


def compile(  # noqa: A001  # torch.compile and re.compile are called so, too
    model: Any,
    example: Any = None,
    *,
    bits: Any = None,
    calibrate: Any = None,
    mode: str | None = None,
    hint: Hint | None = None,
    group: int | None = None,
    tune: bool | None = None,
    strict: bool = False,
    floats: str | None = None,
    functions: str | None = None,
    max_length: int | None = None,
    limits: onnx.Limits | None = None,
    progress: bool = True,
    **quantize: Any,
) -> Any:
    """Compile a model of any framework to a network of integers, with floats where it has no integers.

    model:
        a torch.nn.Module of floats, which `bits` and `calibrate` quantize; or with quantized layers: of Brevitas, torch.ao, pt2e (also as a
        torch.export.ExportedProgram), torchao, or of `ulp.torch.convert`, which keep their widths. It is exported in evaluation and in
        float32, and afterwards as it was.
        An ONNX model, as a path, bytes or onnx.ModelProto: as by `ulp.load`.
        A network of ulp.nn: as by `ulp.nn.compile`.
    example: an input, a torch tensor or array: its shape counts, of which the first side is the batch, and any batch runs where the model
        allows it. Of several inputs a tuple, the last item of which may be a dict of keyword arguments, or such a dict. Arguments that are
        no tensors become part of the network. For ONNX models needed only where the file leaves sides but the batch open. With bits="auto"
        it is what is timed.
    bits, calibrate, and further options: as for `ulp.quantize.quantize`, for models of floats. Layers are called as their modules,
        "layer1.0.conv1". bits="float" compiles a model of floats as it is, to run in onnxruntime.
    mode, hint, group, tune, progress: as for `ulp.load`, of a network of ulp.nn as for `ulp.nn.compile`. strict, floats, limits: as for
        `ulp.load`. functions: "integer" for softmax, normalizations and activations in integers, as for both.
        max_length: as for `ulp.load`, of ONNX models, in place of the lengths of `example`.

    Returns a `ulp.onnx.OnnxNetwork`, which is called with torch tensors or arrays, positional or by name, and hands out tensors or arrays
    in the tuple, list or dict that the model returned; for a network of ulp.nn a `CompiledNetwork`. Activations between quantized layers
    are codes. The network computes with the weights of now.

    Raises OnnxError, a ValueError, where torch cannot export the model, naming the operator; TypeError and ValueError for wrong arguments,
    and for a model of floats without `bits`; ImportError where packages are missing (torch models need onnx and onnxscript).
    """
    options = {"mode": mode, "hint": hint, "group": group, "tune": tune, "functions": functions}
    options = {name: value for name, value in options.items() if value is not None}
    loading = {"strict": strict, "floats": floats, "max_length": max_length, "limits": limits}
    check_options({"tune": tune, "floats": floats, "functions": functions}, strict=strict, progress=progress)
    onnx.Limits.of(limits)
    if not isinstance(model, nn.Module):  # whose modes have other names
        check_options(options)
    quantizing.check(quantize)
    asked = {name: value for name, value in {"bits": bits, "calibrate": calibrate, **quantize}.items() if value is not None}
    if isinstance(model, nn.Module):
        for name in (*asked, *(name for name, value in loading.items() if value is not None and value is not False)):
            raise TypeError(f"{name}= for a network of ulp.nn, whose layers have their widths, and which has no floats")
        if example is None:
            raise TypeError("example is missing: pass an input of the network, or its shape")
        return nn.compile(model, example, progress=progress, **options)  # type: ignore[arg-type]
    structure, library, shapes = None, None, None
    if is_torch(model):
        if example is None:
            raise TypeError("example is missing: pass an input of the model, such as a batch of the data that it is for")
        from .torch_source import exported, family

        library = family(model)
        if library is None:
            quantizing.check_request(bits, calibrate, quantize)
        source = exported(model, example)
        proto, structure, example = source.proto, source.structure, source.example
    else:
        if not isinstance(model, (str, bytes, bytearray, memoryview, os.PathLike)) and type(model).__name__ != "ModelProto":
            raise TypeError(
                f"model is {type(model).__name__}: expected a torch.nn.Module, a network of ulp.nn, or an ONNX model as a path, bytes or "
                f"onnx.ModelProto"
            )
        proto = read_proto(model)
        shapes = _shapes(proto, example) if max_length is None else None
    if library is not None or is_quantized(proto):
        for name in asked:
            what = _LIBRARIES.get(library or "", "quantizers")
            raise ValueError(f"{name}= is for models of floats, and this one has {what}, which keep their bits and ranges")
        network = onnx.load(proto, shapes=shapes, progress=progress, **loading, **options)  # type: ignore[arg-type]
        network.source = proto
    else:
        quantizing.check_request(bits, calibrate, quantize)
        if quantizing.is_float(bits):
            network = onnx.load(proto, shapes=shapes, progress=progress, **loading, **options)  # type: ignore[arg-type]
        else:
            quantize |= quantizing.timed(bits, example)
            made = quantizer.quantize(proto, bits=bits, calibrate=calibrate, limits=limits, progress=progress, **quantize)
            network = made.load(shapes=shapes, progress=progress, **loading, **options)
    network.restructure(structure)
    return network


def is_torch(model: Any) -> bool:
    """Whether it is a torch model or program."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, (torch.nn.Module, torch.export.ExportedProgram))


def _shapes(proto: Any, example: Any) -> Mapping[str, tuple[int, ...]] | None:
    """The shapes of an ONNX model's inputs that an example says."""
    if example is None:
        return None
    held = {tensor.name for tensor in proto.graph.initializer}
    inputs = [port.name for port in proto.graph.input if port.name not in held]
    if isinstance(example, Mapping):
        given = dict(example)
    else:
        several = example if isinstance(example, (tuple, list)) else (example,)
        given = dict(zip(inputs, several, strict=False))
        if len(several) > len(inputs):
            raise TypeError(f"example has {len(several)} arrays: the model has {len(inputs)} inputs, {', '.join(inputs)}")
    return {name: tuple(np.shape(array)) for name, array in given.items()}
