"""`python -m bench run conv`: single convolutions, alternating like the products."""

from __future__ import annotations

import functools

from bench.peers import chosen, convolution
from bench.subjects import convolutions, ulp_networks
from bench.subjects.convolutions import Convolution
from bench.subjects.interface import EXACT, WrongResultError

from . import timing
from .options import Options
from .results import Result
from .session import SAFE_BITS, Run
from .timing import Contestant

CONV_PAIRS = ((2, 1), (2, 2), (3, 3), (4, 4))  # (a_bits, w_bits)
# Small enough to be quick, deep enough that pairs of products saturate where they can.
CHECKED = Convolution("check", 14, 14, 64, 64, 3)


def conv(options: Options) -> Result:
    """Layers of well-known networks, uint8 NHWC in and out; every bit pair of `ulp` and every peer alternate at each layer."""
    run = Run(options, "conv")
    layers = {f"{layer.network} {layer.name}": layer for layer in (convolutions.QUICK if options.quick else convolutions.LAYERS)}
    run.plan(list(layers))
    with timing.pinned(options.core) as run.core:
        peers = _admitted(run)
        for title, layer in layers.items():
            if not run.wants(title):
                continue
            contestants = []
            if run.ulp is not None and ulp_networks.has_plans():
                for bits in options.pairs or CONV_PAIRS:
                    call = ulp_networks.layer(layer, bits)
                    name, info = f"ulp W{bits[1]}A{bits[0]}", {"kernel": call.method, "check": EXACT.as_dict()}
                    contestants.append(Contestant(name, "ulp", call, layer.macs, call.nbytes, bits, info=info))
            run.measure(title, layer.gemm, contestants + _conv_peers(peers, layer) + run.ceilings(("mul8", "dot512")))
    return run.result()


def _admitted(run: Run) -> list[convolution.ConvPeer]:
    admitted = []
    for peer in chosen(convolution.ALL, run.options.peers):
        record = run.record(peer)
        record["claims_exact"] = peer.exact
        if record["why_unavailable"] is None:
            for key, bits in (("safe_range", SAFE_BITS), ("full_range", 8)):
                record[key] = convolution.check(peer, CHECKED, *convolutions.operands(CHECKED, bits, 8)).as_dict()
            admitted.append(peer)
    return admitted


def _conv_peers(peers: list[convolution.ConvPeer], layer: Convolution) -> list[Contestant]:
    """Each peer on 7-bit activations and 8-bit weights, checked: WrongResultError for one that is off by more than its rounding."""
    a, w = convolutions.operands(layer, SAFE_BITS, 8)
    step = convolutions.step(convolutions.accumulators(layer, a, w))
    made = []
    for peer in peers:
        state = peer.prepare(layer, a, w, step)
        verdict = convolution.check(peer, layer, a, w, state)
        if verdict.max_error > convolution.ROUNDING:
            raise WrongResultError(f"{peer.name} {layer.name} with activations up to 127 is {verdict.words()}")
        info = {"check": verdict.as_dict(), "kernel": peer.precision(state)}
        made.append(Contestant(peer.name, peer.kind, functools.partial(peer.run, state), layer.macs, peer.weight_bytes(layer), info=info))
    return made
