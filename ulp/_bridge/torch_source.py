"""A torch model as an onnx.ModelProto.

Two exporters of torch are in use, as neither takes everything:
- torch.onnx.export(dynamo=True), by torch.export: floats, pt2e, torchao, layers of ulp.torch. It follows sizes as symbols, so that any
  batch runs, folds batch normalisations, and is the one that torch still works on. It takes seconds.
- the older one, by TorchScript: it alone writes torch.ao's packed layers, and Brevitas' own exporter builds on it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from ulp._tensors import is_tensor
from ulp.nn.compiled import Structure
from ulp.onnx import OnnxError
from ulp.torch import decompositions

from . import attention, names, translations
from .calls import Call
from .qdq import to_qdq

# Larger than any tensor: constants are folded whatever their size.
_ANY_SIZE = 2**62


@dataclass(frozen=True)
class Exported:
    """proto: the model, one input per tensor of the example. structure: how its results were handed out. example: arrays by input."""

    proto: Any
    structure: Structure
    example: dict[str, Any]


def exported(model: Any, example: Any) -> Exported:
    """The model in evaluation, as it is on `example`; afterwards the model is as it was.

    model: a torch.nn.Module, a torch.fx.GraphModule, or a torch.export.ExportedProgram. example: see `calls.Call`.
    Raises OnnxError where the model cannot be exported, naming the operator, and where it fails on the example.
    """
    _check_packages()
    model = _module(model)
    library = family(model)
    with _evaluation(model):
        model = _float32(model)
        call = Call.of(model, example, _device(model))
        flat = _Flat(model, call)
        with torch.no_grad():
            results = _called(flat, call)
        structure, output_names = _structure(results)
        with _quiet():
            if library == "brevitas":
                with attention.brevitas_batch_first(model):
                    proto = _brevitas(flat, call, output_names)
            elif library == "torch_ao":
                proto = _torchscript(flat, call, output_names)
            else:
                with attention.batch_first(model):
                    proto = _dynamo(flat, call, output_names)
    if library == "ulp":
        proto = to_qdq(proto, odd_zeros_only=True)
    names.by_modules(proto, "model")
    names.sides(proto, call.batched)
    return Exported(proto, structure, {name: x.cpu().numpy() for name, x in zip(call.names, call.tensors, strict=True)})


def family(model: Any) -> str | None:
    """Whose quantized layers a model holds: "ulp", "brevitas", "torch_ao", "pt2e", "torchao"; None where it holds floats."""
    for module in _module(model).modules():
        home = type(module).__module__
        if home in ("ulp.torch.layers", "ulp.torch.quantized.integer_linear") or home.startswith("ulp.torch.quantized."):
            return "ulp"
        if home.startswith("brevitas.nn."):
            return "brevitas"
        if home.startswith(("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")):
            return "torch_ao"
        if any(type(p).__module__.startswith("torchao.") for p in module._parameters.values() if p is not None):
            return "torchao"
        if isinstance(module, torch.fx.GraphModule):
            targets = {str(node.target) for node in module.graph.nodes if node.op == "call_function"}
            if any(target.startswith("quantized_decomposed.") for target in targets):
                return "pt2e"
            if any(target.startswith("ulp.") for target in targets):
                return "ulp"
            if any("quantize_per_tensor" in target for target in targets):
                return "torch_ao"
    return None


def _called(flat: _Flat, call: Call) -> Any:
    """What the model returns on the example. OnnxError where it fails."""
    try:
        return flat.results(*(x.clone() for x in call.tensors))  # which a model may change in place
    except Exception as error:
        line = " ".join(str(error).split())
        raise OnnxError(f"the model fails on the example, {call}: {type(error).__name__}: {line:.400}") from error


class _Flat(torch.nn.Module):
    """The model with tensors in, one after another, and tensors out."""

    def __init__(self, model: Any, call: Call) -> None:
        super().__init__()
        self.model = model
        self._call = call
        self.training = False  # no call of train(), which graphs of torch.export refuse

    def results(self, *tensors: Tensor) -> Any:
        """What the model returns."""
        args, kwargs = self._call.arguments(tensors)
        return self.model(*args, **kwargs)

    def forward(self, *tensors: Tensor) -> Any:
        """Its tensors."""
        return tuple(_values(leaf) for leaf in _leaves(self.results(*tensors)))


def _is_quant_tensor(x: Any) -> bool:
    return type(x).__module__.startswith("brevitas.")  # named tuples, of which only the values are a result


def _leaves(results: Any) -> list[Any]:
    return list(_pytree.tree_leaves(results, is_leaf=_is_quant_tensor))


def _values(leaf: Any) -> Any:
    return leaf.value if _is_quant_tensor(leaf) else leaf


def _structure(results: Any) -> tuple[Structure, list[str]]:
    """How the model hands out its results, and their names. OnnxError for what is more than a tuple, list or dict of tensors."""
    if is_tensor(results) or _is_quant_tensor(results):
        return Structure(None), ["output"]
    if isinstance(results, Mapping):
        keys = tuple(results)
        if not all(isinstance(key, str) and key for key in keys):
            raise OnnxError(f"the model returns a dict with the keys {list(keys)!r:.200}: expected strings")
        found, structure, output_names = list(results.values()), Structure(dict, keys), list(keys)
    elif isinstance(results, (tuple, list)):
        found, structure = list(results), Structure(list if isinstance(results, list) else tuple)
        output_names = [f"output_{i}" for i in range(len(found))]
    else:
        raise OnnxError(f"the model returns {type(results).__name__}: expected a tensor, or a tuple, list or dict of tensors")
    wrong = [type(one).__name__ for one in found if not (is_tensor(one) or _is_quant_tensor(one))]
    if wrong or not found:
        what = f"a {type(results).__name__} with {wrong[0]} in it" if wrong else "nothing"
        raise OnnxError(f"the model returns {what}: expected a tensor, or a tuple, list or dict of tensors")
    return structure, output_names


# Models.


def _module(model: Any) -> Any:
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is TorchScript, which torch.export does not take: pass the torch.nn.Module that it was made from")
    # What torch.compile gives holds the model; called as it is, it would be compiled before it is exported.
    return getattr(model, "_orig_mod", model) if type(model).__name__ == "OptimizedModule" else model


@contextlib.contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    """The model in evaluation, and then each of its modules and buffers as it was: calls on the example may change buffers."""
    training = [module for module in model.modules() if module.training]
    buffers = [(module, name, buffer, buffer.detach().clone()) for module in model.modules() for name, buffer in _own_buffers(module)]
    try:
        if training:
            with contextlib.suppress(NotImplementedError):  # graphs of torch.export have no modes
                model.eval()
        yield
    finally:
        for module in training:
            module.training = True
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def _own_buffers(module: Any) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in module._buffers.items() if buffer is not None and type(buffer) is Tensor]


def _float32(model: Any) -> Any:
    """The model, or a copy of it that computes in float32."""
    dtypes = {tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
    if dtypes & {torch.float16, torch.bfloat16} or dtypes == {torch.float64}:
        return copy.deepcopy(model).float()
    return model


def _device(model: Any) -> Any:
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


# Exporters.


def _dynamo(flat: Any, call: Call, output_names: list[str]) -> Any:
    """By torch.export, for any batch where the model allows it."""
    doubled = call.doubled()
    tries = [call] if doubled is None else [doubled, call]
    for attempt in tries:
        flexible = attempt is doubled or doubled is None
        try:
            program = _program(flat, attempt, output_names, attempt.batch_axes() if flexible else None)
        except Exception as error:
            if attempt is call:
                raise OnnxError(_reason(error)) from error
            continue
        proto = _with_weights(program.model_proto)
        fixed = [port.name for port in proto.graph.input if _fixed(port, attempt)]
        if attempt is call or not fixed:
            return proto
    raise AssertionError  # the last attempt returns or raises


def _with_weights(proto: Any) -> Any:
    """The model with weights in the place of `decompositions.WEIGHTS`."""
    import onnx

    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    packed = [node for node in proto.graph.node if node.domain == decompositions.OWN_DOMAIN]
    for node in packed:
        codes, scale = (onnx.numpy_helper.to_array(held[name]) for name in node.input)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weight = decompositions.unpacked(codes, scale, attributes["bits"], tuple(attributes["shape"]))
        name = f"{node.input[0].removesuffix('.packed_weight')}.weight"
        name = node.output[0] if name in held else name
        held[name] = onnx.numpy_helper.from_array(weight, name)
        proto.graph.initializer.append(held[name])
        for reader in proto.graph.node:
            for i, read in enumerate(reader.input):
                reader.input[i] = name if read == node.output[0] else read
        proto.graph.node.remove(node)
    read = {name for node in proto.graph.node for name in node.input}
    for name in {name for node in packed for name in node.input} - read:
        proto.graph.initializer.remove(held[name])
    imports = [opset for opset in proto.opset_import if opset.domain == decompositions.OWN_DOMAIN]
    for opset in imports:
        proto.opset_import.remove(opset)
    return proto


def _fixed(port: Any, call: Call) -> bool:
    """Whether the export bound an input to the batch of a doubled example."""
    sides = port.type.tensor_type.shape.dim
    return bool(sides) and sides[0].dim_value == call.batch and port.name in call.batched


def _program(flat: Any, call: Call, output_names: list[str], axes: Any) -> Any:
    from onnxscript import optimizer

    with torch.no_grad(), decompositions.compact():
        program = torch.onnx.export(
            flat,
            tuple(call.tensors),
            dynamo=True,
            verbose=False,
            input_names=list(call.names),
            output_names=output_names,
            # forward takes all tensors by one parameter
            dynamic_shapes=None if axes is None else (axes,),
            custom_translation_table=translations.table(),
        )
    optimizer.optimize_ir(program.model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    return program


def _torchscript(flat: Any, call: Call, output_names: list[str]) -> Any:
    import onnx

    file = io.BytesIO()
    try:
        torch.onnx.export(flat, tuple(call.tensors), file, dynamo=False, **_open_batch(call, output_names))
    except Exception as error:
        raise OnnxError(_reason(error)) from error
    return onnx.load_from_string(file.getvalue())


def _brevitas(flat: Any, call: Call, output_names: list[str]) -> Any:
    import onnx
    from brevitas.export import export_qonnx

    file = io.BytesIO()
    try:
        export_qonnx(flat, tuple(call.tensors), export_path=file, dynamo=False, **_open_batch(call, output_names))
    except Exception as error:
        raise OnnxError(_reason(error)) from error
    return onnx.load_from_string(file.getvalue())


def _open_batch(call: Call, output_names: list[str]) -> dict[str, Any]:
    axes = {name: {0: "batch"} for name in (*call.batched, *(output_names if call.batched else ()))}
    return {"input_names": list(call.names), "output_names": output_names, "dynamic_axes": axes}


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as missing:
        raise ImportError(
            'torch models go through ONNX, which needs the packages onnx and onnxscript: pip install "ulp-gemm[compile]"'
        ) from missing


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters say of themselves and of packages that are not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    children = [logging.getLogger(f"torch.onnx._internal.exporter.{name}") for name in ("_registration", "_core", "_compat")]
    children += [logging.getLogger(name) for name in ("torch.export", "torch.fx.experimental.symbolic_shapes")]
    levels = [child.level for child in children]
    try:
        for child in children:
            child.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stderr(_OtherThreads(sys.stderr)):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for child, old in zip(children, levels, strict=True):
            child.setLevel(old)


class _OtherThreads(io.TextIOBase):
    """What other threads than this write to a stream: torch prints the graphs of models that it cannot export."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.silent = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Pass it on, but for this thread's."""
        if self.stream is None or threading.get_ident() == self.silent:
            return len(text)
        return int(self.stream.write(text))

    def flush(self) -> None:
        """As the stream does."""
        if self.stream is not None:
            self.stream.flush()


def _reason(error: BaseException) -> str:
    """What could not be exported, in one line: torch's own messages run over pages."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    texts = [re.sub(r"\x1b\[[0-9;]*m", "", str(one)) for one in chain]
    for text in texts:
        found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>", text)
        found = found or re.search(r"[Ee]xporting the operator '([^']+)'( )", text)
        if found:
            name = found[1].replace(".", "::", 1) if "::" not in found[1] else found[1]
            return (
                f"the model cannot be exported to ONNX: torch has no ONNX form of the operator {name}. Compile the parts before and behind "
                f"it, or write it in other operators"
            )
    last = next((text for text in reversed(texts) if text.strip()), type(error).__name__)
    line = " ".join(last.split())
    return f"the model cannot be exported to ONNX: {type(chain[-1]).__name__}: {line:.400}"
