"""The cells of `python -m bench` that fit into a minute, for pytest-benchmark: `pytest bench --benchmark-only` (not part of the tests).

pytest-benchmark times one contestant after another, so that it shows changes of `ulp` over time; ratios to peers come from
`python -m bench run`, whose contestants alternate. Every product is checked before it is timed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))

from bench import peers  # the path comes first
from bench.runs import timing
from bench.subjects import installed, operands

pytest.importorskip("pytest_benchmark")
threadpoolctl = pytest.importorskip("threadpoolctl")
pytestmark = [
    pytest.mark.benchmark(timer=time.thread_time, warmup=True),
    pytest.mark.filterwarnings("default"),  # the peers' own deprecations are not ours to fail on
]

SHAPES = ((256, 256, 256), (1, 1024, 1024))
PAIRS = ((1, 1), (2, 2), (3, 3), (4, 4), (8, 4), (8, 8))


@pytest.fixture(autouse=True)
def _one_core() -> Any:
    # numpy is loaded before any variable could be set, and two OpenBLAS threads on one core wait for each other.
    with timing.pinned(None), threadpoolctl.threadpool_limits(1):
        yield


@pytest.mark.parametrize("bits", PAIRS, ids=lambda bits: f"W{bits[1]}A{bits[0]}")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_ulp(benchmark: Any, shape: tuple[int, int, int], bits: tuple[int, int]) -> None:
    if reason := installed.why_unavailable():
        pytest.skip(f"ulp: {reason}")
    ulp = installed.load()
    ulp.set_num_threads(1)
    call = installed.product(ulp, *shape, bits)
    benchmark.extra_info["kernel"] = installed.last_kernel()
    benchmark(call)


@pytest.mark.parametrize("peer", peers.ALL, ids=lambda peer: str(peer.name))
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_peer(benchmark: Any, shape: tuple[int, int, int], peer: type[peers.Peer]) -> None:
    contestant = peer()
    if reason := contestant.why_unavailable():
        pytest.skip(f"{contestant.name}: {reason}")
    m, n, k = shape
    a, b = operands.activations(m, k, 7), operands.weights(k, n, 8)
    state = contestant.prepare(a, b)
    verdict = peers.check(contestant, a, b, state)
    assert verdict.exact or contestant.kind == "info", verdict.words()
    benchmark(contestant.run, state)
