"""`python -m bench run networks` and `run batches`: whole networks on one image or several, alternating like the products."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import ROOT
from bench.peers import chosen, network
from bench.subjects import models, networks, ulp_networks
from bench.subjects.interface import EXACT, NetworkRuntime, WrongResultError
from bench.subjects.models import F32

from . import machine, memory, parts, results, timing
from .options import Options
from .progress import bar
from .results import Result
from .session import Run
from .timing import Contestant

QUICK = "SqueezeNet 1.1"
QUICK_PEERS = ("onnxruntime fp32",)  # of `batches`; `networks` runs all
BATCHED = ("SqueezeNet 1.1", "MobileNetV2", "ResNet-18")
BATCHES = (8, 64)
# In this order, in case that the time does not suffice for all.
_BY_VALUE = ("ResNet-18", "MobileNetV2", "SqueezeNet 1.1", "ResNet-50", "GoogLeNet", "AlexNet", "VGG16")
FIRST_SHARE = 0.65  # of the time for networks, of the first count of threads
# Smallest cosine of the angle between a runtime's scores and float32's. A float runtime differs by its order of summation, an 8-bit one by
# its rounding and by ReLU in place of ReLU6; a wrongly wired network is near 0.
MIN_COSINE = {"fp32": 0.9999, "int8": 0.7}


@dataclass(frozen=True)
class _Built:
    peer: NetworkRuntime
    path: Path
    info: dict[str, Any]


# Peers of products that are not among those of networks, and why: the result file says so.
PRODUCTS_ONLY = {
    "XNNPACK": "LiteRT reads files of its own format, of which peers/xnnpack.py writes products and convolutions, no networks",
}


def whole(options: Options) -> Result:
    """Networks on one 224 x 224 image: `ulp` at each width and every peer alternate; one group per network and count of threads.

    Each of several counts is measured in a separate process: thread pools keep the cores and the count that they started with.
    """
    if len(options.threads) > 1:
        first, *more = (_in_a_process(options, threads) for threads in options.threads)
        for part in more:
            first.groups.extend(part.groups)
            first.settings["not_run"] += part.settings["not_run"]
            first.settings["seconds"] |= part.settings["seconds"]
        first.settings["threads"] = list(options.threads)
        first.settings["clock"] = "; ".join(dict.fromkeys(part.settings["clock"] for part in (first, *more)))
        first.environment["command"] = machine.command(options.arguments)
        return first
    return _measured(options, "networks", [(name, 1) for name in _wanted(options)], options.threads[0])


def _wanted(options: Options) -> list[str]:
    return networks.named(options.networks or ((QUICK,) if options.quick else None))


def batches(options: Options) -> Result:
    """The smaller networks on several images at once, one core."""
    wanted = networks.named(options.networks or ((QUICK,) if options.quick else BATCHED))
    several = options.batches or ((2,) if options.quick else BATCHES)
    options = dataclasses.replace(options, memory=False)
    if options.quick and options.peers is None:
        options = dataclasses.replace(options, peers=QUICK_PEERS)
    return _measured(options, "batches", [(name, batch) for batch in several for name in wanted], 1)


def _measured(options: Options, what: str, wanted: list[tuple[str, int]], threads: int) -> Result:
    """One group per network and batch, all with this many threads."""
    run = Run(options, what, clock="thread" if threads == 1 else "wall")
    run.notes = {
        "threads": threads,
        "peer_operands": "float32 images (batch, 3, 224, 224); random weights, the same for all, He's scaling",
    }
    run.plan([_title(name, batch, threads) for name, batch in wanted])
    pairs = options.pairs or (ulp_networks.PAIRS[-2:-1] if options.quick else ulp_networks.PAIRS)
    runtimes: list[NetworkRuntime] = list(ulp_networks.at_all_bits(pairs))
    runtimes += chosen(network.ALL, options.peers)
    runtimes = [peer for peer in runtimes if run.record(peer)["why_unavailable"] is None]
    if options.peers is None:
        run.peers |= {name: {"kind": "int8", "note": "", "why_unavailable": why} for name, why in PRODUCTS_ONLY.items()}
    with timing.pinned(options.core) if threads == 1 else contextlib.nullcontext() as run.core:
        for name, batch in sorted(wanted, key=lambda one: (one[1], _BY_VALUE.index(one[0]))):
            if run.wants(_title(name, batch, threads)):
                _measure_network(run, name, batch, runtimes, threads)
    if run.ulp is not None:
        run.ulp.set_num_threads(1)
    return run.result()


def _title(name: str, batch: int, threads: int) -> str:
    return name + (f", batch {batch}" if batch > 1 else "") + (f", {threads} threads" if threads > 1 else "")


def _measure_network(run: Run, name: str, batch: int, runtimes: list[NetworkRuntime], threads: int) -> None:
    """One group. A separate function, so that gigabytes of loaded models are freed before the next."""
    with tempfile.TemporaryDirectory() as directory:
        model = dataclasses.replace(models.model(name), batch=batch)
        contestants = _network_contestants(model, _built(run, model, runtimes, Path(directory)), threads)
        channels, height, width = model.graph.nodes[0].shape
        # Fewer rounds where a run is long; a MAC takes less time here than in a bare product.
        rounds = run.options.rounds_for(model.graph.macs() * batch // 8)
        run.measure(_title(name, batch, threads), (channels, height, width), contestants, rounds)


def _in_a_process(options: Options, threads: int) -> Result:
    """The benchmark `networks` with one count of threads, in a separate process, whose groups outlast an interruption."""
    with contextlib.ExitStack() as stack:
        if options.directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            directory = parts.of_process(options.directory, f"threads-{threads}")
        given = [*options.arguments, "--threads", str(threads), "--out", str(directory)]
        given[given.index("run") + 1] = "networks"  # it may be `all`
        if (left := options.seconds_left()) is not None:
            share = 1.0 if threads == options.threads[-1] else FIRST_SHARE
            given += ["--minutes", f"{left * share / 60:.2f}"]
        if threads > 1:
            given.append("--no-memory")
        done = subprocess.run([sys.executable, "-m", "bench", *given], check=False, cwd=ROOT, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"the process for {threads} threads failed, see above")
        path = directory / "networks.json"
        if path.exists():
            return results.load(path)
        run = Run(options, "networks")  # its time was up before it began
        run.not_run += [{"group": _title(name, 1, threads), "why": "out of time (--minutes)"} for name in _wanted(options)]
        return run.result()


def _built(run: Run, model: models.Model, runtimes: list[NetworkRuntime], directory: Path) -> list[_Built]:
    """Each runtime's model file, with the memory that a fresh process needs for it."""
    made = []
    with bar(f"{run.progress.title(model.name)}, models", len(runtimes), "model") as tick:
        for peer in runtimes:
            path = peer.build(model, directory)
            info: dict[str, Any] = {"file_bytes": path.stat().st_size}
            if isinstance(peer, ulp_networks.UlpNetwork) and run.clock == "thread" and model.batch == 1:
                info["tensors_checked"] = peer.check(model.name, path, model.images())
                info["check"] = EXACT.as_dict()
            if run.options.memory and memory.why_unavailable() is None:
                info["memory"] = memory.of(peer, model.name, path)
            made.append(_Built(peer, path, info))
            tick()
    return made


def _cosine(x: F32, y: F32) -> float:
    a, b = x.ravel().astype(np.float64), y.ravel().astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _network_contestants(model: models.Model, built: list[_Built], threads: int) -> list[Contestant]:
    """Each runtime loaded with this many threads, its scores compared with a float runtime's: WrongResultError if they differ."""
    x = model.images()
    states = [one.peer.load(model.name, one.path, x, threads) for one in built]
    scores = []
    for one, state in zip(built, states, strict=True):
        one.peer.before(threads)
        scores.append(one.peer.result(state))
    truth = next((s for s, one in zip(scores, built, strict=True) if one.peer.kind == "fp32"), None)
    made = []
    for one, state, own in zip(built, states, scores, strict=True):
        peer = one.peer
        info = {**one.info, "threads": threads, "batch": model.batch, "kernels": peer.precision(state)}
        if nbytes := peer.model_bytes(state):
            info["model_bytes"] = nbytes
        if truth is not None:
            info["cosine"] = round(_cosine(own, truth), 6)
            if info["cosine"] < MIN_COSINE.get(peer.kind, -1):
                raise WrongResultError(f"{peer.name} {model.name}: the scores differ from float32's, cosine {info['cosine']}")
        before = functools.partial(peer.before, threads)
        bits = peer.bits if isinstance(peer, ulp_networks.UlpNetwork) else None
        call = functools.partial(peer.run, state)
        made.append(
            Contestant(peer.name, peer.kind, call, model.graph.macs() * model.batch, one.info["file_bytes"], bits, before, info=info)
        )
    return made
