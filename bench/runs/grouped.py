"""Few rows against weights in groups, on one core: `python -m bench grouped`, which writes grouped.json.

1 and 8 rows of floats times 4096 x 4096 weights with a scale for each 128 k: `ulp.GroupedMatrix` at 2, 3, 4 and 8 bits and of NF4, with
integer zero points too; beside it the product with one scale per matrix (`ulp.gemm`, of codes that are there), onnxruntime's MatMulNBits
with activations of 8 bits (accuracy_level 4) and as it comes, and torch's 4-bit product, which torchao's int4 layers call on CPUs. Each
twice: with weights in the last cache, where they fit, and from memory.

Every result is held against the product of the dequantized weights in float64; the largest difference, as a share of the largest value,
stands in the file. Needs onnx, onnxruntime and torch for those contestants, and leaves out what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ulp
from bench.peers.ort import open_session

from . import machine, results
from .products import FLOOD
from .timing import Contestant, measure, pinned

GROUP = 128
WIDTHS = (2, 3, 4, 8)
FloatArray = npt.NDArray[np.float32]


class _Weights:
    """Codes (K, N), and a scale and a zero point of each group, of one width."""

    def __init__(self, size: int, bits: int) -> None:
        rng = np.random.default_rng(bits)
        self.bits, self.size = bits, size
        self.codes = rng.integers(0, 2**bits, (size, size), dtype=np.uint8)
        self.scales = rng.uniform(0.01, 0.02, (size // GROUP, size)).astype(np.float32)
        self.zeros = rng.integers(0, 2**bits, self.scales.shape).astype(np.uint8)

    def values(self, middle: bool, table: FloatArray | None = None) -> FloatArray:
        """What they stand for: less the middle, or their zero points, or by a table."""
        parts = self.codes.reshape(-1, GROUP, self.size)
        less = np.float32(2 ** (self.bits - 1)) if middle else self.zeros[:, None].astype(np.float32)
        steps = parts - less if table is None else table[parts]
        return np.asarray((steps * self.scales[:, None]).reshape(self.size, self.size), np.float32)


def _error(got: Any, want: npt.NDArray[np.float64]) -> float:
    return float(np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max())


def _ours(x: FloatArray, w: _Weights) -> list[Contestant]:
    m, k = x.shape
    kinds: list[tuple[str, Any, FloatArray]] = []
    middle = 2 ** (w.bits - 1)
    plain = ulp.pack(w.codes, w.bits, scales=w.scales, zero_points=middle)
    kinds.append((f"ulp W{w.bits}A8 groups", plain, w.values(True)))
    if w.bits == 4:
        kinds.append(("ulp W4A8 groups, zero points", ulp.pack(w.codes, 4, scales=w.scales, zero_points=w.zeros), w.values(False)))
        for name, codebook_bits in (("ulp NF4 groups", 8), ("ulp NF4 groups, entries of 16 bits", 16)):
            matrix = ulp.pack(w.codes, 4, scales=w.scales, codebook="nf4", codebook_bits=codebook_bits)
            kinds.append((name, matrix, w.values(True, matrix.codebook)))
    made = []
    for name, matrix, values in kinds:
        run = partial(matrix.linear, x)
        info = {"error": _error(run(), x.astype(np.float64) @ values)}
        made.append(Contestant(name, "ulp", run, m * k * w.size, matrix.nbytes, (8, w.bits), info=info))
    packed = ulp.pack(w.codes, w.bits)
    codes = np.random.default_rng(0).integers(0, 256, (m, k), dtype=np.uint8)
    product = partial(ulp.gemm, codes, packed, bits=(8, w.bits))
    exact = bool((product() == codes.astype(np.int64) @ w.codes.astype(np.int64)).all())
    made.append(Contestant(f"ulp W{w.bits}A8", "ulp", product, m * k * w.size, packed.nbytes, (8, w.bits), info={"exact": exact}))
    return made


def _onnxruntime(x: FloatArray, w: _Weights) -> list[Contestant]:
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None or w.bits not in (2, 4, 8):
        return []
    onnx = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    m, k = x.shape
    n, groups = w.size, k // GROUP
    shifts = np.arange(0, 8, w.bits, dtype=np.uint8)
    parts = w.codes.T.reshape(n, groups, -1, 8 // w.bits)
    stored = (parts << shifts).sum(axis=-1, dtype=np.uint8)
    constants = {"b": stored, "s": np.ascontiguousarray(w.scales.T).reshape(-1)}
    want = x.astype(np.float64) @ w.values(True)
    made = []
    for level in (4, 0):
        sizes = {"K": k, "N": n, "bits": w.bits, "block_size": GROUP, "accuracy_level": level}
        node = helper.make_node("MatMulNBits", ["a", "b", "s"], ["y"], domain="com.microsoft", **sizes)
        ports = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("a", [m, k]), ("y", [m, n]))]
        tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        graph = helper.make_graph([node], "grouped", ports[:1], ports[1:], tensors)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        session = open_session(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
        run = partial(session.run, None, {"a": x})
        name = f"onnxruntime MatMulNBits W{w.bits}, " + ("accuracy_level 4" if level else "default")
        info = {"error": _error(run()[0], want)}
        nbytes = stored.nbytes + constants["s"].nbytes
        made.append(Contestant(name, "int8" if level else "fp32", run, m * k * n, nbytes, (8, w.bits) if level else None, info=info))
    return made


def _torch(x: FloatArray, w: _Weights) -> list[Contestant]:
    if w.bits != 4 or importlib.util.find_spec("torch") is None:
        return []
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        return []
    m, k = x.shape
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(w.codes.T.astype(np.int32)), 1)
    scales = torch.from_numpy(np.stack([w.scales, np.zeros_like(w.scales)], axis=2))  # the zero point there is that of code 8
    want = x.astype(np.float64) @ w.values(True)
    made = []
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        arguments = torch.from_numpy(x).to(dtype), packed, GROUP, scales.to(dtype)
        run = partial(torch.ops.aten._weight_int4pack_mm_for_cpu, *arguments)
        info = {"error": _error(run().float().numpy(), want)}
        nbytes = w.codes.size // 2 + scales.numel() * dtype.itemsize
        made.append(Contestant(f"torch int4, {name}", "fp32", run, m * k * w.size, nbytes, info=info))
    return made


def _groups(arguments: argparse.Namespace) -> list[results.Group]:
    size = arguments.size
    flood = np.ones(round(FLOOD * machine.last_level_bytes()) // 8, dtype=np.int64)

    def evict() -> object:
        return flood.sum()

    found = []
    weights = [_Weights(size, bits) for bits in WIDTHS]
    makers: tuple[Callable[[FloatArray, _Weights], list[Contestant]], ...] = (_ours, _onnxruntime, _torch)
    for rows in arguments.rows:
        x = np.random.default_rng(rows).standard_normal((rows, size)).astype(np.float32)
        warm = [contestant for w in weights for make in makers for contestant in make(x, w)]
        cold = [dataclasses.replace(contestant, before=evict, cold=True) for contestant in warm]
        for where, contestants in (("", warm), (" cold", cold)):
            samples = measure(contestants, rounds=arguments.rounds)
            found.append(results.group(f"{rows}x{size}x{size}{where}", (rows, size, size), contestants, samples))
            print(found[-1].name)
            for cell in found[-1].cells:
                error = f"error {cell.info['error']:.1e}" if "error" in cell.info else "exact" if cell.info["exact"] else "WRONG"
                ns = cell.time.median
                print(f"  {cell.name:44} {ns / 1e6:8.3f} ms  {cell.nbytes / ns:6.2f} GB/s  {error}", flush=True)
    return found


def main(arguments: list[str]) -> int:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench grouped", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8], help="rows of the activations (default: 1 8)")
    parser.add_argument("--size", type=int, default=4096, help="K and N (default: 4096)")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--out", type=Path, default=results.DIRECTORY, help="the directory of grouped.json")
    given = parser.parse_args(arguments)
    ulp.set_num_threads(1)
    with pinned(given.core):
        groups = _groups(given)
    environment = machine.describe(arguments) | {"command": " ".join(["python -m bench grouped", *arguments]), "isa": ulp.get_isa()}
    results.save(results.Result("grouped", environment, {"rounds": given.rounds, "threads": 1}, None, {}, groups), given.out)
    return 0
