"""Benchmarks of `ulp` beside its peers. `python -m bench --help`; nothing here is needed to install or use `ulp`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
