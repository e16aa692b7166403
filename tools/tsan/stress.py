"""Everything that threads may do to the core at once, for minutes; every result is compared. For a build with ThreadSanitizer.

`tools/tsan/run [SECONDS]` builds it and runs this. Without a sanitizer it is a test of results, and of no call's hanging.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

import ulp
from ulp import nn


class Stress:
    """What the threads share: packed matrices, compiled networks, a folder; and what each of them should give."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self.a = rng.integers(0, 8, (70, 300)).astype(np.uint8)
        self.b = rng.integers(-4, 4, (300, 130)).astype(np.int8)
        self.packed = ulp.pack(self.b, 3)
        self.product = self.a.astype(np.int64) @ self.b
        self.images = rng.random((6, 3, 24, 24), np.float32)
        layers: list[nn.Module] = [
            nn.Conv2d(3, 16, 3, padding=1, bits=3),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1, bits=3),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bits=4),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24 * 12 * 12, 10, bits=4),
        ]
        self.network = nn.Sequential(*layers).calibrate([self.images], progress=False)
        self.compiled = [nn.compile(self.network, self.images, tune=False, hint=hint) for hint in ("latency", "throughput")]
        self.results = self.compiled[0](self.images)
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.end = False

    # What a thread does in one turn.

    def _gemm(self, rng: random.Random) -> None:
        rows = rng.randint(0, len(self.a))
        kernel = rng.choice([None, "mul8_scalar_4x32"])
        self._check(np.array_equal(ulp.gemm(self.a[:rows], self.packed, kernel=kernel), self.product[:rows]))

    def _fused(self, rng: random.Random) -> None:
        rows = rng.randint(1, len(self.a))
        got = ulp.gemm(self.a[:rows], self.packed, scale=0.5)
        self._check(np.array_equal(got, self.product[:rows].astype(np.float32) * np.float32(0.5)))

    def _run_network(self, rng: random.Random) -> None:
        first = rng.randrange(len(self.images))
        self._check(np.array_equal(rng.choice(self.compiled)(self.images[first:]), self.results[first:]))

    def _compile_network(self, rng: random.Random) -> None:
        made = nn.compile(self.network, self.images[:1], tune=rng.random() < 0.5)
        self._check(np.array_equal(made(self.images), self.results))

    def _pack(self, rng: random.Random) -> None:
        columns = rng.randint(1, self.b.shape[1])
        self._check(np.array_equal(ulp.pack(self.b[:, :columns], 3).unpack(), self.b[:, :columns]))

    def _settings(self, rng: random.Random) -> None:
        ulp.set_num_threads(rng.randint(1, 4))
        ulp.set_isa(rng.choice(ulp.available_isas()))

    def _tune(self, rng: random.Random) -> None:
        ulp.tune(M=rng.choice([1, 8]), N=32, K=64, bits=rng.randint(1, 4))
        ulp.explain(8, 32, 64, bits=2)

    def _save(self, rng: random.Random) -> None:
        path = self.folder / f"{rng.randrange(2)}.ulp"
        self.compiled[0].save(path)
        self._check(np.array_equal(nn.load(path)(self.images[:2]), self.results[:2]))
        matrix = self.folder / f"{rng.randrange(2)}.{rng.choice(['npz', 'safetensors'])}"
        self.packed.save(matrix)
        self._check(ulp.PackedMatrix.load(matrix) == self.packed)

    # The threads.

    def _check(self, equal: bool) -> None:
        if not equal:
            raise AssertionError("a result differs")

    def _loop(self, name: str, turn: Callable[[random.Random], None], seed: int) -> None:
        rng = random.Random(seed)
        while not self.end:
            try:
                turn(rng)
            except Exception as error:
                self.failures.append(f"{name}: {type(error).__name__}: {error}")
                return
            self.done[name] += 1
            time.sleep(rng.random() * 0.002)

    def run(self, seconds: float) -> None:
        """Two threads for each turn; meanwhile the main thread's calls are interrupted."""
        turns = [self._gemm, self._fused, self._run_network, self._compile_network, self._pack, self._settings, self._tune, self._save]
        threads = [
            threading.Thread(target=self._loop, args=(turn.__name__[1:], turn, i + 100 * twin), daemon=True)
            for i, turn in enumerate(turns)
            for twin in range(2)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        big = np.ones((4096, 300), np.uint8)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        while time.monotonic() < deadline and not self.failures:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                while not self.end:
                    ulp.gemm(big, self.packed)
            except KeyboardInterrupt:
                self.done["interrupts"] += 1
            timer.join()
        self.end = True
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                self.failures.append("a thread hangs")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        stress = Stress(Path(folder))
        stress.run(args.seconds)
    sys.stdout.write(f"{dict(stress.done)} in {args.seconds:.0f} s\n" + "".join(f"{failure}\n" for failure in stress.failures[:5]))
    return 1 if stress.failures else 0


if __name__ == "__main__":
    sys.exit(main())
