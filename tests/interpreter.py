"""Fresh interpreters for what happens at import, at exit and after fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import ulp

# `python -c` looks into its working directory first: this one makes it find the ulp that is being tested and not another, be that the
# installed one (where the suite runs in a checkout whose own ulp/ has no native module) or a checkout built in place.
DIRECTORY = Path(ulp.__file__).absolute().parents[1]


def run_python(program: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `program` with this environment on top of ours; never raises."""
    command = [sys.executable, *options, "-c", textwrap.dedent(program)]
    return subprocess.run(
        command, cwd=DIRECTORY, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )


def output_of(program: str, *options: str, **environment: str) -> str:
    """stdout of `program`, which must succeed."""
    done = run_python(program, *options, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
