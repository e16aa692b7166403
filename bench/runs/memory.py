"""How much memory a runtime takes for a network, measured in a fresh process: `python -m bench.runs.memory <peer> <network> <model file>`.

Prints one line of JSON: the resident memory with the runtime imported, and the peak while it loads the model and runs two images. The
peak is that of this process image (VmHWM): `getrusage` would go on with the parent's.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench import ROOT
from bench.peers import network
from bench.subjects import installed, networks, ulp_networks
from bench.subjects.interface import NetworkRuntime

from .options import ALL_PAIRS


def _peak() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not report VmHWM")


def known() -> dict[str, NetworkRuntime]:
    """Every runtime of networks by its name, `ulp` at all its widths among them."""
    made = [peer() for peer in network.ALL] + ulp_networks.at_all_bits(ALL_PAIRS)
    return {peer.name: peer for peer in made}


def why_unavailable() -> str | None:
    """None where the OS reports a process's peak."""
    return None if Path("/proc/self/status").exists() else "needs Linux's /proc"


def of(peer: NetworkRuntime, name: str, path: Path) -> dict[str, int]:
    """{"imported", "peak"} in bytes of a fresh process that loads the file and runs it. RuntimeError with its words if it fails."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.runs.memory", peer.name, name, str(path)]
    # The same search path there as here, then the tree's directory: an installed ulp comes before the tree's.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (*sys.path, str(ROOT)) if p)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{peer.name} in a separate process: {done.stderr.strip().splitlines()[-1:]}")
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(peer_name: str, network_name: str, path: str) -> None:
    """Load, run, print."""
    peer = known()[peer_name]
    x = np.random.default_rng(1).standard_normal((1, *networks.INPUT), dtype=np.float32)
    if peer.kind == "ulp":
        installed.load()
    else:
        importlib.import_module(peer.packages[0])
    imported = _peak()
    state: Any = peer.load(network_name, Path(path), x, 1)
    for _ in range(2):
        peer.run(state)
    print(json.dumps({"imported": imported, "peak": _peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
