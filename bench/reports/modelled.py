"""Tables of `model`: what kernels and peers would cost on ARM cores. No figure was measured, and each table says so."""

from __future__ import annotations

from typing import Any

from .tables import Table

LABELS = ("W1A1", "W2A2", "W3A3", "W4A4", "W8A8")
PEER_TITLES = {"gemmlowp": "gemmlowp", "smlal": "QNNPACK's scheme", "sdot": "sdot int8"}
PEER_LABEL = "W8A7"

# Targets: (core, pair, peers, at least this many times the fastest of them).
TARGETS = (
    ("cortex-a53", "W1A1", ("gemmlowp", "smlal"), 5.0),
    ("cortex-a53", "W2A2", ("gemmlowp", "smlal"), 2.0),
    ("cortex-a53", "W3A3", ("gemmlowp", "smlal"), 2.0),
    ("cortex-a53", "W4A4", ("gemmlowp", "smlal"), 1.5),
    ("cortex-a72", "W1A1", ("gemmlowp", "smlal"), 8.0),
    ("cortex-a72", "W2A2", ("gemmlowp", "smlal"), 2.0),
    ("cortex-a72", "W3A3", ("gemmlowp", "smlal"), 1.0),
    ("cortex-a72", "W4A4", ("gemmlowp", "smlal"), 1.0),
    ("neoverse-n1", "W1A1", ("sdot",), 2.5),
    ("neoverse-n1", "W2A2", ("sdot",), 1.0),
    ("neoverse-n1", "W3A3", ("sdot",), 1.0),
    ("neoverse-n1", "W4A4", ("sdot",), 1.0),
    ("neoverse-n1", "W8A8", ("sdot",), 1.0),
)
UNDECIDED = 1.5  # the models' error: a gap below it is no verdict

# Won et al., ULPPACK, MLSys 2022, abstract: W3A3 at 512x512x512 on ARM.
CLAIM = {"gemmlowp": 2.1, "smlal": 1.8, "bitserial": 2.7}
CLAIM_CORES = ("cortex-a53", "cortex-a72")

NOTE = (
    "Modelled: executed instructions (exact, counted under qemu) times llvm-mca's model of the core; caches always hit. A gap below 1.5x "
    "is undecided. `ulp` packs activations within the call; gemmlowp packs both sides; QNNPACK's scheme (8 x 8 `smlal`) and sdot int8 "
    "(8 x 8) find both packed."
)


def _ours(modelled: dict[str, Any], core: str, pair: str, technique: str = "") -> tuple[float, str] | None:
    """Cycles per product and name of the best of the library's kernels on the core, all of them or of one technique."""
    peers = modelled["peers"]
    found = [
        (pairs[pair], name)
        for name, pairs in modelled["products"].get(core, {}).items()
        if name not in peers and pair in pairs and (not technique or name.startswith(technique + "_"))
    ]
    return min(found, default=None)


def _peer(modelled: dict[str, Any], core: str, peer: str) -> float | None:
    cycles: float | None = modelled["products"].get(core, {}).get(peer, {}).get(PEER_LABEL)
    return cycles


def _rate(cycles: float | None) -> str:
    return f"{1 / cycles:.1f}" if cycles else "-"


def _size(modelled: dict[str, Any]) -> str:
    return "x".join(map(str, modelled["shape"]))


def cores_table(modelled: dict[str, Any]) -> Table:
    """Products per cycle of the best kernel on each core, beside the peers."""
    rows = []
    for core in modelled["cores"]:
        best = [_ours(modelled, core, pair) for pair in LABELS]
        ours = [f"{_rate(b[0])} {b[1].rsplit('_', 2)[0]}" if b else "-" for b in best]
        rows.append((core, *ours, *(_rate(_peer(modelled, core, peer)) for peer in PEER_TITLES)))
    return Table(f"ARM, modelled: MAC per cycle at {_size(modelled)}, one core", ("", *LABELS, *PEER_TITLES.values()), rows, NOTE)


def targets_table(modelled: dict[str, Any]) -> Table:
    """Each target, and what the model says of it."""
    rows = []
    for core, pair, peers, target in TARGETS:
        known = [(cycles, peer) for peer in peers if (cycles := _peer(modelled, core, peer))]
        best = _ours(modelled, core, pair)
        if not known or not best:
            continue
        cycles, peer = min(known)
        reached = cycles / best[0]
        verdict = "yes" if reached >= target else "no"
        rows.append((f"{core} {pair}", best[1], PEER_TITLES[peer], f"{target:.1f}x", f"{reached:.2f}x", verdict))
    title = f"ARM, modelled: targets at {_size(modelled)}"
    return Table(title, ("", "kernel", "fastest peer", "target", "modelled", "reached"), rows)


def claim_table(modelled: dict[str, Any]) -> Table:
    """ULPPACK as published against what it was published against."""
    rows = []
    for core in CLAIM_CORES:
        packed = _ours(modelled, core, "W3A3", "ulppack_p1")
        serial = _ours(modelled, core, "W3A3", "bitserial")
        if not packed or not serial:
            continue
        others = {"gemmlowp": _peer(modelled, core, "gemmlowp"), "smlal": _peer(modelled, core, "smlal"), "bitserial": serial[0]}
        for name, claimed in CLAIM.items():
            if cycles := others[name]:
                ratio = cycles / packed[0]
                close = max(ratio / claimed, claimed / ratio) < UNDECIDED
                verdict = "yes, within the model's error" if close else "yes" if ratio > claimed else "no"
                rows.append((f"{core}, over {PEER_TITLES.get(name, 'bit-serial (ours)')}", f"{claimed:.1f}x", f"{ratio:.2f}x", verdict))
    return Table(
        "ARM, modelled: ULPPACK P1 at W3A3, the published claim",
        ("", "published (512x512x512)", f"modelled ({_size(modelled)})", "holds"),
        rows,
    )


def tables(modelled: dict[str, Any]) -> list[Table]:
    """All of them that have rows."""
    return [t for t in (cores_table(modelled), targets_table(modelled), claim_table(modelled)) if t.rows]


def section(modelled: dict[str, Any], chosen: list[Table] | None = None) -> str:
    """Tables and where they come from, as Markdown."""
    environment = modelled["environment"]
    cores = "; ".join(f"{name}: {core['model']}" for name, core in modelled["cores"].items())
    commit = (environment.get("commit") or "unknown")[:12] + (" with local changes" if environment.get("dirty") else "")
    origin = (
        f"Calculated {environment['date'][:10]} by `{environment['command']}`, {environment['compiler']}, commit {commit}; nothing was "
        f"measured on an ARM core. Models: {cores}."
    )
    return "\n\n".join([*(t.markdown() for t in chosen or tables(modelled)), origin])
