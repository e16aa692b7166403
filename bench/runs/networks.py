"""`python -m bench run networks`: whole networks on one image, alternating like the products."""

from __future__ import annotations

import contextlib
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
from bench.subjects.interface import NetworkRuntime, WrongResultError
from bench.subjects.models import F32

from . import memory, results, timing
from .options import Options
from .results import Result
from .session import Run, progress
from .timing import Contestant

# Smallest cosine of the angle between a runtime's scores and float32's. A float runtime differs by its order of summation, an 8-bit one by
# its rounding and by ReLU in place of ReLU6; a wrongly wired network is near 0.
MIN_COSINE = {"fp32": 0.9999, "int8": 0.7}


@dataclass(frozen=True)
class _Built:
    peer: NetworkRuntime
    path: Path
    info: dict[str, Any]


def whole(options: Options) -> Result:
    """Networks on one 224 x 224 image: `ulp` at each width and every peer alternate; one group per count of threads.

    Each of several counts is measured in a separate process: thread pools keep the cores and the count that they started with.
    """
    if len(options.threads) > 1:
        parts = [_in_a_process(options, threads) for threads in options.threads]
        for part in parts[1:]:
            parts[0].groups.extend(part.groups)
        parts[0].settings["threads"] = list(options.threads)
        parts[0].settings["clock"] = "; ".join(dict.fromkeys(part.settings["clock"] for part in parts))
        parts[0].environment["command"] = " ".join(["python -m bench", *options.arguments])
        return parts[0]
    threads = options.threads[0]
    run = Run(options, "networks")
    wanted = networks.named(options.networks or (("SqueezeNet 1.1",) if options.quick else None))
    runtimes: list[NetworkRuntime] = list(ulp_networks.at_all_bits(options.pairs or ulp_networks.PAIRS))
    runtimes += chosen(network.ALL, options.peers)
    runtimes = [peer for peer in runtimes if run.record(peer)["why_unavailable"] is None]
    clock: timing.Clock = "thread" if threads == 1 else "wall"
    with timing.pinned(options.core) if threads == 1 else contextlib.nullcontext() as core:
        for name in wanted:
            _measure_network(run, name, runtimes, threads, clock)
    if run.ulp is not None:
        run.ulp.set_num_threads(1)
    result = run.result(clock, core)
    result.settings["threads"] = threads
    result.settings["peer_operands"] = "float32 images (1, 3, 224, 224); random weights, the same for all, He's scaling"
    return result


def _measure_network(run: Run, name: str, runtimes: list[NetworkRuntime], threads: int, clock: timing.Clock) -> None:
    """One group. A separate function, so that gigabytes of loaded models are freed before the next."""
    with tempfile.TemporaryDirectory() as directory:
        model = models.model(name)
        contestants = _network_contestants(model, _built(run, model, runtimes, Path(directory)), threads)
        channels, height, width = model.graph.nodes[0].shape
        # Fewer rounds where a run is long; a MAC takes less time here than in a bare product.
        rounds = run.options.rounds_for(model.graph.macs() // 8)
        title = name if threads == 1 else f"{name}, {threads} threads"
        run.measure(title, (channels, height, width), contestants, clock, rounds)


def _in_a_process(options: Options, threads: int) -> Result:
    """The benchmark `networks` with one count of threads, in a separate process."""
    with tempfile.TemporaryDirectory() as directory:
        given = [*options.arguments, "--threads", str(threads), "--out", directory]
        given[given.index("run") + 1] = "networks"  # it may be `all`
        if threads > 1:
            given.append("--no-memory")
        done = subprocess.run([sys.executable, "-m", "bench", *given], check=False, cwd=ROOT, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"the process for {threads} threads failed, see above")
        return results.load(Path(directory) / "networks.json")


def _built(run: Run, model: models.Model, runtimes: list[NetworkRuntime], directory: Path) -> list[_Built]:
    """Each runtime's model file, with the memory that a fresh process needs for it."""
    made = []
    with progress(f"{run.what} {model.name}", len(runtimes), "model") as tick:
        for peer in runtimes:
            path = peer.build(model, directory)
            info: dict[str, Any] = {"file_bytes": path.stat().st_size}
            if isinstance(peer, ulp_networks.UlpNetwork) and run.options.threads == (1,):
                info["tensors_checked"] = peer.check(model.name, path, model.images())
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
        info = {**one.info, "threads": threads, "kernels": peer.precision(state)}
        if nbytes := peer.model_bytes(state):
            info["model_bytes"] = nbytes
        if truth is not None:
            info["cosine"] = round(_cosine(own, truth), 6)
            if info["cosine"] < MIN_COSINE.get(peer.kind, -1):
                raise WrongResultError(f"{peer.name} {model.name}: the scores differ from float32's, cosine {info['cosine']}")
        before = functools.partial(peer.before, threads)
        bits = peer.bits if isinstance(peer, ulp_networks.UlpNetwork) else None
        call = functools.partial(peer.run, state)
        made.append(Contestant(peer.name, peer.kind, call, model.graph.macs(), one.info["file_bytes"], bits, before, info=info))
    return made
