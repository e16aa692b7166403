"""XNNPACK as LiteRT (once TensorFlow Lite) runs it: int8 activations and weights, int8 results.

The models are written with the schema that the package ai-edge-litert brings. Activations u of 0 .. 255 become u - 128 with zero point
-128, the same values.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import operands
from bench.subjects.interface import Library

from .base import Peer, requantization_step, requantized

ZERO = -128


class LiteRt(Library):
    """What its peers of products and of convolutions have in common."""

    packages = ("ai_edge_litert", "flatbuffers")

    def why_unavailable(self) -> str | None:
        return "not installed: pip install ai-edge-litert" if super().why_unavailable() else None

    def version(self) -> str:
        return f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"


@functools.cache
def schema_module() -> Any:
    """The classes of the file format."""
    return importlib.import_module("ai_edge_litert.schema_py_generated")


@dataclass
class Model:
    """A model of one subgraph under construction: tensors by number, operators in order."""

    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: list[Any] = field(default_factory=list)

    def tensor(self, shape: Sequence[int], kind: str, scales: Sequence[float], zero: int, data: Any = None, axis: int = 0) -> int:
        """Its number. data: of a constant. scales: one, or one per element of `axis`."""
        schema = schema_module()
        if not self.buffers:
            self.buffers.append(schema.BufferT())  # number 0 is the empty buffer of what is no constant
        if data is not None:
            self.buffers.append(schema.BufferT(data=np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)))
        quantization = None
        if scales:
            quantization = schema.QuantizationParametersT(
                scale=np.asarray(scales, np.float32), zeroPoint=np.full(len(scales), zero, np.int64), quantizedDimension=axis
            )
        where = len(self.buffers) - 1 if data is not None else 0
        name = f"t{len(self.tensors)}".encode()
        made = schema.TensorT(
            shape=list(shape), type=getattr(schema.TensorType, kind), buffer=where, name=name, quantization=quantization
        )  # fmt: skip
        self.tensors.append(made)
        return len(self.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], output: int, version: int, options: Any = None, kind: str = "NONE") -> None:
        """Append one. kind: of the options, by the schema's name."""
        schema = schema_module()
        code = getattr(schema.BuiltinOperator, name)
        # The field of one byte that old readers know stops at 127, which stands for "see the other".
        self.codes.append(schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version))
        self.operators.append(
            schema.OperatorT(
                opcodeIndex=len(self.codes) - 1, inputs=list(inputs), outputs=[output], builtinOptions=options,
                builtinOptionsType=getattr(schema.BuiltinOptions, kind),
            )
        )  # fmt: skip

    def bytes(self, source: int, target: int) -> bytes:
        """The file with one input and one output."""
        schema: Any = schema_module()
        builder: Any = importlib.import_module("flatbuffers").Builder(0)
        graph = schema.SubGraphT(tensors=self.tensors, inputs=[source], outputs=[target], operators=self.operators, name=b"main")
        model = schema.ModelT(version=3, operatorCodes=self.codes, subgraphs=[graph], buffers=self.buffers, description=b"benchmark")
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


@dataclass(frozen=True)
class State:
    """An interpreter with its input set; `invoke` runs it."""

    invoke: Callable[[], object]
    interpreter: Any
    step: float

    def output(self) -> npt.NDArray[Any]:
        """The result of the last call as int8."""
        index = self.interpreter.get_output_details()[0]["index"]
        return np.array(self.interpreter.get_tensor(index), copy=True)


def opened(content: bytes, x: npt.NDArray[np.int8], step: float, threads: int = 1) -> State:
    """A model ready to run on x. RuntimeError where XNNPACK has not taken every operator."""
    module: Any = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = module.Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    if [one["op_name"] for one in interpreter._get_ops_details()].count("DELEGATE") != 1:
        raise RuntimeError("XNNPACK has not taken every operator of the model")
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    return State(interpreter.invoke, interpreter, step)


def signed(u: operands.U8) -> npt.NDArray[np.int8]:
    """u - 128."""
    return (u.astype(np.int16) - 128).astype(np.int8)


class Xnnpack(LiteRt, Peer):
    """One fully connected layer, weights with a scale per channel."""

    name = "XNNPACK"
    kind = "int8"
    exact = True
    max_activation = 255
    output = "uint8"
    note = "LiteRT, int8 in and out"

    def prepare(self, a: operands.U8, b: operands.S8) -> State:
        schema = schema_module()
        step = requantization_step(operands.reference(a, b))
        n = b.shape[1]
        model = Model()
        x = model.tensor(a.shape, "INT8", [1.0], ZERO)
        w = model.tensor((n, len(b)), "INT8", [1.0] * n, 0, b.T)
        bias = model.tensor((n,), "INT32", [1.0] * n, 0, np.zeros(n, np.int32))
        y = model.tensor((len(a), n), "INT8", [step], 0)
        model.operator("FULLY_CONNECTED", [x, w, bias], y, 4, schema.FullyConnectedOptionsT(), "FullyConnectedOptions")
        return opened(model.bytes(x, y), signed(a), step)

    def run(self, state: State) -> object:
        return state.invoke()

    def result(self, state: State) -> npt.NDArray[Any]:
        state.invoke()
        return state.output().astype(np.int64) + 128

    def expected(self, state: State, accumulators: operands.I64) -> npt.NDArray[Any]:
        return requantized(accumulators, state.step)

    def step(self, state: State) -> float:
        return state.step
