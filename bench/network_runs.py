"""`python -m bench run conv` and `run networks`: single convolutions and whole networks, alternating like the products of `runs.py`."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import graph, layers, memory, networks, results, subject_networks, timing
from .layers import Convolution
from .peers import chosen, convolution, network
from .results import Result
from .runs import SAFE_BITS, Options, Run, progress
from .subject import ROOT, WrongResultError
from .timing import Contestant

CONV_PAIRS = ((2, 1), (2, 2), (3, 3), (4, 4))  # (a_bits, w_bits)
# Small enough to be quick, deep enough that pairs of products saturate where they can.
CHECKED = Convolution("check", 14, 14, 64, 64, 3)
# Scores beside those of float32, as the cosine of the angle between them. A float runtime differs by its order of summation; an 8-bit one
# by its rounding, and where ReLU stands for ReLU6 by that; what is wired wrongly is near 0.
LEAST_COSINE = {"fp32": 0.9999, "int8": 0.7}


def conv(options: Options) -> Result:
    """Layers of well-known networks, uint8 NHWC in and out; every bit pair of `ulp` and every peer alternate at each layer."""
    run = Run(options, "conv")
    with timing.pinned(options.core) as core:
        peers = _admitted(run)
        for layer in layers.QUICK if options.quick else layers.LAYERS:
            contestants = []
            if run.ulp is not None and subject_networks.has_plans():
                for bits in options.pairs or CONV_PAIRS:
                    call = subject_networks.layer(layer, bits)
                    name, info = f"ulp W{bits[1]}A{bits[0]}", {"kernel": call.method}
                    contestants.append(Contestant(name, "ulp", call, layer.macs, call.nbytes, bits, info=info))
            contestants += _conv_peers(peers, layer)
            run.measure(f"{layer.network} {layer.name}", layer.gemm, contestants + run.ceilings())
    return run.result("thread", core)


def _admitted(run: Run) -> list[convolution.ConvPeer]:
    admitted = []
    for peer in chosen(convolution.ALL, run.options.peers):
        record = run.record(peer)
        record["claims_exact"] = peer.exact
        if record["why_unavailable"] is None:
            for key, bits in (("safe_range", SAFE_BITS), ("full_range", 8)):
                record[key] = convolution.check(peer, CHECKED, *layers.operands(CHECKED, bits, 8)).as_dict()
            admitted.append(peer)
    return admitted


def _conv_peers(peers: list[convolution.ConvPeer], layer: Convolution) -> list[Contestant]:
    """Each peer on 7-bit activations and 8-bit weights, checked: WrongResultError for one that is off by more than its rounding."""
    a, w = layers.operands(layer, SAFE_BITS, 8)
    step = layers.step(layers.accumulators(layer, a, w))
    made = []
    for peer in peers:
        state = peer.prepare(layer, a, w, step)
        verdict = convolution.check(peer, layer, a, w, state)
        if verdict.max_error > convolution.ROUNDING:
            raise WrongResultError(f"{peer.name} {layer.name} with activations up to 127 is {verdict.words()}")
        info = {"check": verdict.as_dict(), "kernel": peer.precision(state)}
        made.append(Contestant(peer.name, peer.kind, functools.partial(peer.run, state), layer.macs, peer.weight_bytes(layer), info=info))
    return made


@dataclass(frozen=True)
class _Built:
    peer: network.NetworkPeer
    path: Path
    info: dict[str, Any]


def whole(options: Options) -> Result:
    """Networks on one 224 x 224 image: `ulp` at each width and every peer alternate; for each count of threads a group of its own.

    Several counts of threads are measured in a process each: thread pools keep the cores and the count that they began with.
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
    runtimes: list[network.NetworkPeer] = list(subject_networks.at_all_bits(options.pairs or subject_networks.PAIRS))
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


def _measure_network(run: Run, name: str, runtimes: list[network.NetworkPeer], threads: int, clock: timing.Clock) -> None:
    """One group. A function of its own, so that gigabytes of loaded models are gone before the next."""
    with tempfile.TemporaryDirectory() as directory:
        model = graph.model(name)
        contestants = _network_contestants(model, _built(run, model, runtimes, Path(directory)), threads)
        channels, height, width = model.graph.nodes[0].shape
        # Seven rounds are enough where a run is long; a MAC is worth less time here than in a bare product.
        rounds = run.options.rounds_for(model.graph.macs() // 8)
        title = name if threads == 1 else f"{name}, {threads} threads"
        run.measure(title, (channels, height, width), contestants, clock, rounds)


def _in_a_process(options: Options, threads: int) -> Result:
    """The benchmark `networks` with one count of threads, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        given = [*options.arguments, "--threads", str(threads), "--out", directory]
        given[given.index("run") + 1] = "networks"  # it may be `all`
        if threads > 1:
            given.append("--no-memory")
        done = subprocess.run([sys.executable, "-m", "bench", *given], check=False, cwd=ROOT, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"the process for {threads} threads failed, see above")
        return results.load(Path(directory) / "networks.json")


def _built(run: Run, model: graph.Model, runtimes: list[network.NetworkPeer], directory: Path) -> list[_Built]:
    """Each runtime's model file, with the memory that a fresh process needs for it."""
    made = []
    with progress(f"{run.what} {model.name}", len(runtimes), "model") as tick:
        for peer in runtimes:
            path = peer.build(model, directory)
            info: dict[str, Any] = {"file_bytes": path.stat().st_size}
            if isinstance(peer, subject_networks.UlpNetwork) and run.options.threads == (1,):
                info["tensors_checked"] = peer.check(model.name, path, model.images())
            if run.options.memory and memory.why_unavailable() is None:
                info["memory"] = memory.of(peer, model.name, path)
            made.append(_Built(peer, path, info))
            tick()
    return made


def _cosine(x: graph.F32, y: graph.F32) -> float:
    a, b = x.ravel().astype(np.float64), y.ravel().astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _network_contestants(model: graph.Model, built: list[_Built], threads: int) -> list[Contestant]:
    """Each runtime loaded with so many threads, its scores held against a float runtime's: WrongResultError if they are others."""
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
            if info["cosine"] < LEAST_COSINE.get(peer.kind, -1):
                raise WrongResultError(f"{peer.name} {model.name}: the scores are other than float32's, cosine {info['cosine']}")
        before = functools.partial(peer.before, threads)
        bits = peer.bits if isinstance(peer, subject_networks.UlpNetwork) else None
        call = functools.partial(peer.run, state)
        made.append(Contestant(peer.name, peer.kind, call, model.graph.macs(), one.info["file_bytes"], bits, before, info=info))
    return made


RUNS: dict[str, Callable[[Options], Result]] = {"conv": conv, "networks": whole}
