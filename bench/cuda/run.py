"""Build, check and time the CUDA kernels on the device at hand, in one command and under ten minutes.

    python -m bench.cuda.run                       # all parts, JSON into bench/results, tables on the terminal
    python -m bench.cuda.run --parts build check   # some
    python -m bench.cuda.run --minutes 6 --parts build check check-conv check-network       # right everywhere?
    python -m bench.cuda.run --minutes 6 --parts speed speed-conv speed-network             # how fast, with what was built then
    python -m bench.cuda.run --minutes 5 --out DIR --cutlass DIR --commit HASH

Every part is a process of its own with a time box: what hangs or faults costs that part only, and what was measured by then is kept. A part
that ends early leaves its time to the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import ROOT
from bench.runs import results

from . import build, report

# Seconds of each part if all run; a part may also use what those before it have left over.
BOXES = {
    "build": 170, "check": 80, "check-conv": 100, "check-network": 60, "speed": 130, "speed-conv": 150, "speed-network": 60, "sweep": 80,
    "sanitize": 60,
}  # fmt: skip
DEFAULT = ("build", "check", "speed", "sweep", "sanitize")
GRACE = 15  # a part stops by itself; this much later it is stopped
SANITIZERS = ("memcheck", "racecheck")
SANITIZER_EXIT = 99


@dataclass
class Runner:
    """The parts' processes: where they find things, and how much time is left."""

    work: Path
    out: Path
    arguments: list[str]
    commit: str | None
    deadline: float

    def box(self, part: str, parts: Sequence[str]) -> float:
        """Seconds for a part: its own, or all that is left less what the parts after it want."""
        after = sum(BOXES[p] for p in parts[parts.index(part) + 1 :])
        left = self.deadline - time.monotonic() - GRACE
        return max(0.0, min(left, max(BOXES[part] * min(1.0, left / (BOXES[part] + after)), left - after)))

    def python(self, *arguments: str, prefix: Sequence[str] = ()) -> list[str]:
        """A command in this interpreter."""
        return [*prefix, sys.executable, *arguments]

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """A part's process, which finds the built package first and the checkout's bench after it."""
        path = os.pathsep.join([str(self.work / "site"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(command, cwd=self.work, env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}, text=True)

    def wait(self, name: str, process: subprocess.Popen[str], seconds: float) -> bool:
        """Whether it ended well in time; it is stopped otherwise."""
        try:
            code = process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(f"{name}: stopped after {seconds:.0f} s", flush=True)
            return False
        if code != 0:
            print(f"{name}: ended with {code}", flush=True)
        return code == 0


def build_part(runner: Runner, seconds: float, cutlass: Path | None) -> bool:
    """Everything that is compiled."""
    try:
        capability = build.device_capability()
    except RuntimeError as error:
        print(f"  {error}", flush=True)
        return False
    outcome = build.build(runner.work, capability, cutlass, seconds)
    for name, reason in outcome.items():
        print(f"  {name}: {'built' if reason is None else reason}", flush=True)
    return outcome["_cuda"] is None


def check_part(runner: Runner, seconds: float) -> bool:
    """Exactness."""
    command = runner.python("-m", "bench.cuda.check", "--out", str(runner.out / report.CHECKS), "--seconds", f"{seconds:.0f}")
    return runner.wait("check", runner.start(command), seconds + GRACE)


def other_part(name: str) -> Callable[[Runner, float], bool]:
    """`check` or `speed` of bench.cuda.conv or bench.cuda.network, each of which goes on where it was stopped."""
    part, _, module = name.partition("-")

    def run(runner: Runner, seconds: float) -> bool:
        commit = ["--commit", runner.commit] if runner.commit else []
        command = runner.python("-m", f"bench.cuda.{module}", part, "--out", str(runner.out), "--seconds", f"{seconds:.0f}", *commit)
        return runner.wait(name, runner.start(command), seconds + GRACE)

    return run


def measure_part(part: str) -> Callable[[Runner, float], bool]:
    """`speed` or `sweep`."""

    def run(runner: Runner, seconds: float) -> bool:
        what = " ".join(["python -m bench.cuda.run", *runner.arguments])
        command = runner.python(
            "-m", "bench.cuda.measure", part, "--out", str(runner.out), "--libraries", str(runner.work / "libraries"),
            "--seconds", f"{seconds:.0f}", "--command", what, *(["--commit", runner.commit] if runner.commit else []),
        )  # fmt: skip
        return runner.wait(part, runner.start(command), seconds + GRACE)

    return run


def sanitizer_verdict(code: int | None, checked: bool) -> str:
    """One word or reason from the exit code of compute-sanitizer (None: it was stopped) and whether any check had been made by then."""
    if code == 0:
        return "clean"
    if code == SANITIZER_EXIT:
        return "ERRORS FOUND"
    if code is None:
        return "no error before the clock stopped it" if checked else "stopped before its first check was done"
    return f"failed: exit code {code}"


def sanitize_part(runner: Runner, seconds: float) -> bool:
    """compute-sanitizer's tools, side by side, on a reduced set of checks; what they say goes beside the checks."""
    tool = build.tool("compute-sanitizer")
    path = runner.out / report.SANITIZERS
    if tool is None:
        path.write_text(json.dumps(dict.fromkeys(SANITIZERS, "skipped: compute-sanitizer is not installed")) + "\n", encoding="utf-8")
        return True
    until = time.monotonic() + seconds
    running = {}
    for name in SANITIZERS:
        prefix = [tool, "--tool", name, "--error-exitcode", str(SANITIZER_EXIT), "--log-file", str(runner.work / f"{name}.log")]
        checks = runner.work / f"{name}.json"
        checks.unlink(missing_ok=True)
        command = runner.python(
            "-m", "bench.cuda.check", "--reduced", "--out", str(checks), "--seconds", f"{0.7 * seconds:.0f}", prefix=prefix
        )
        running[name] = (runner.start(command), checks)
    verdicts = {}
    for name, (process, checks) in running.items():
        ended = runner.wait(name, process, until - time.monotonic() + GRACE)
        code = process.returncode if ended or process.returncode >= 0 else None
        verdicts[name] = sanitizer_verdict(code, checks.exists())
    path.write_text(json.dumps(verdicts) + "\n", encoding="utf-8")
    return not any(verdict.startswith(("ERRORS", "failed")) for verdict in verdicts.values())


PARTS: dict[str, Callable[[Runner, float], bool]] = {
    "check": check_part,
    "speed": measure_part("speed"),
    "sweep": measure_part("sweep"),
    "sanitize": sanitize_part,
    **{name: other_part(name) for name in BOXES if "-" in name},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and print the report; 1 where one of them failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.run", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.3, help="for everything (default 9.3)")
    parser.add_argument("--out", type=Path, default=results.DIRECTORY, help="folder of the result files (default bench/results)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-cuda", help="folder of what is built")
    parser.add_argument("--parts", nargs="+", choices=list(BOXES), default=DEFAULT, help="in this order whatever is named")
    parser.add_argument(
        "--cutlass", type=Path, default=None, help="folder of CUTLASS's headers (default: PyPI's nvidia-cutlass if installed)"
    )
    parser.add_argument("--commit", default=None, help="for the result files, where git is not there")
    args = parser.parse_args(given)
    parts = [part for part in BOXES if part in args.parts]
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(args.work.resolve(), args.out.resolve(), given, args.commit, time.monotonic() + 60 * args.minutes)
    failed = []
    for part in parts:
        seconds = runner.box(part, parts)
        print(f"{part}: {seconds:.0f} s at most", flush=True)
        begin = time.monotonic()
        good = build_part(runner, seconds, args.cutlass) if part == "build" else PARTS[part](runner, seconds)
        print(f"{part}: {'done' if good else 'FAILED'} after {time.monotonic() - begin:.0f} s", flush=True)
        if not good:
            failed.append(part)
            if part == "build":
                break
    print()
    report.show(runner.out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
