"""`python -m bench run paper`: the experiments of the ULPPACK paper, repeated on this core (Won et al., MLSys 2022, section 6).

Products of 512 cubed, and W3A3 at other sizes: `ulp` as it chooses, the published packing and a bit-serial kernel in `ulp`'s own driver,
gemmlowp and QNNPACK. `run pairs` is the paper's plane of all widths, `run networks` its seven CNNs.
"""

from __future__ import annotations

from bench.subjects import installed

from . import energy, timing
from .options import Options
from .products import rows_as_contestants
from .results import Result
from .session import Run

PAPER_PAIRS = ((1, 1), (2, 2), (3, 3), (4, 4))
PAPER_SIZES = (128, 256, 1024)  # of W3A3, besides 512
PAPER_PEERS = ("gemmlowp", "QNNPACK")
TECHNIQUES = ("ulppack_p1", "ulppack_p2", "ulppack_p4", "bitserial")


def paper(options: Options) -> Result:
    """Groups "W3A3 512x512x512" and so on. Kernels that are forced are of the kind "technique"."""
    run = Run(options, "paper")
    main = 64 if options.quick else 512
    shapes = [((main,) * 3, bits) for bits in options.pairs or PAPER_PAIRS]
    shapes += [((s,) * 3, (3, 3)) for s in (() if options.quick else options.sizes or PAPER_SIZES)]
    titles = [f"W{bits[1]}A{bits[0]} {'x'.join(map(str, shape))}" for shape, bits in shapes]
    run.plan(titles)
    reason = energy.why_unavailable()
    joules: dict[str, dict[str, float]] = {}
    run.notes = {"energy": {"why_unavailable": reason, "joules_per_call": joules}}
    rows = [] if run.ulp is None else [r for r in run.ulp.kernels() if installed.field(r, "available")]
    rows = [r for r in rows if installed.field(r, "technique") in TECHNIQUES]
    with timing.pinned(options.core) as run.core:
        peers = [peer for peer in run.admit(("int8",)) if peer.name in PAPER_PEERS]
        for (shape, bits), title in zip(shapes, titles, strict=True):
            if not run.wants(title):
                continue
            able = [r for r in rows if bits in {tuple(p) for p in installed.field(r, "pairs")}]
            forced, loops = rows_as_contestants(run, able, shape, bits)
            contestants = run.ulp_contestants([bits], *shape) + [one.of_kind("technique") for one in forced]
            contestants += run.peer_contestants(peers, *shape)
            run.measure(title, shape, contestants + run.ceilings(sorted(loops)))
            if reason is None:
                joules[title] = {one.name: energy.per_call(one.run) for one in contestants}
    return run.result()
