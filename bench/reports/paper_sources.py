"""What the paper is made from: the result files, and how old each is beside the sources that it describes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.runs import parts, results
from bench.runs.results import Result

# Files that no `Result` describes, by what they hold.
PLAIN = ("field", "modelled")

_NOT_ARM = (":(exclude)*_neon*", ":(exclude)*_dotprod*", ":(exclude)*_i8mm*", ":(exclude)*arm64*")
_PRODUCT = ("csrc/gemm", "csrc/pack", *_NOT_ARM)
_LAYER = (*_PRODUCT, "csrc/ops", "csrc/conv", "csrc/plan")
_MODEL = (*_LAYER, "ulp/nn", "ulp/onnx")
# The sources that decide a result: a commit to one of them after the measurement makes it old.
DEPENDS: dict[str, tuple[str, ...]] = {
    "gemm": _PRODUCT, "pairs": _PRODUCT, "gemv": _PRODUCT, "small": _PRODUCT, "threads": _PRODUCT, "kernels": _PRODUCT,
    "conv": _LAYER, "networks": _MODEL, "onnx": _MODEL, "field": _MODEL,
    "batches": _MODEL, "layers": _MODEL, "ablation": _LAYER, "paper": _PRODUCT,
    "quantize": (*_MODEL, "ulp/quantize"), "stages": (*_MODEL, "ulp/quantize"),
    "modelled": ("csrc/gemm/*_neon*", "csrc/gemm/*_dotprod*", "csrc/gemm/*_i8mm*", "csrc/gemm/panel_loop*", "csrc/pack"),
    "cuda": ("csrc/cuda",), "cuda_kernels": ("csrc/cuda",),
}  # fmt: skip


@dataclass(frozen=True, eq=False)  # hashed as an object, for a cache of what is calculated from it
class Sources:
    """directory: of the result files. results: by what they measured. plain: the files of PLAIN, as parsed. other: of another machine."""

    directory: Path
    results: dict[str, Result]
    plain: dict[str, dict[str, Any]]
    other: Sources | None = None

    def environment(self, what: str) -> dict[str, Any] | None:
        """Machine, date and commit of a result; None where it was not measured."""
        if what in self.results:
            return self.results[what].environment
        found = self.plain.get(what)
        return None if found is None else dict(found["environment"])

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that was read."""
        names = [*self.results, *self.plain]
        own = {name: hashlib.sha256((self.directory / f"{name}.json").read_bytes()).hexdigest() for name in sorted(names)}
        there = self.other.digests() if self.other else {}
        return own | {f"{self.other_name}/{name}": digest for name, digest in there.items()}

    @property
    def other_name(self) -> str:
        """The folder of the other machine's result files."""
        return self.other.directory.name if self.other else ""


def isa_of(environment: dict[str, Any]) -> str:
    """What vector instructions the machine of a result has: the best that kernels of ulp know."""
    flags = set((environment.get("machine") or {}).get("isa") or ())
    names = ("avx512_vnni", "AVX-512 VNNI"), ("avx_vnni", "AVX-VNNI"), ("avx512f", "AVX-512 without VNNI"), ("avx2", "AVX2")
    return next((name for flag, name in names if flag in flags), "no vector instructions known here")


def has_vnni(environment: dict[str, Any] | None) -> bool:
    """Whether int8 libraries have dot products into int32 there."""
    return environment is not None and "VNNI" in isa_of(environment) and "without" not in isa_of(environment)


def load(directory: Path | None = None) -> Sources:
    """Read bench/results, or another directory, and one of its folders that has products of another machine: of several the first
    whose CPU has instructions of another kind, as AVX2 alone beside VNNI.

    SchemaError for a file of another form.
    """
    directory = directory or results.DIRECTORY
    folders = sorted(path.parent for path in directory.glob("*/gemm.json") if path.parent.name not in ("quick", parts.FOLDER))
    own, others = _load(directory), [_load(folder) for folder in folders]
    others.sort(key=lambda one: has_vnni(one.environment("gemm")) == has_vnni(own.environment("gemm")))
    return replace(own, other=others[0] if others else None)


def _load(directory: Path) -> Sources:
    plain = {name: json.loads(path.read_text(encoding="utf-8")) for name in PLAIN if (path := directory / f"{name}.json").exists()}
    return Sources(directory, results.load_all(directory), plain)


@dataclass(frozen=True)
class Age:
    """How old one result is. later: commits since that changed its sources; None where this clone does not have its commit."""

    what: str
    date: str
    cpu: str
    commit: str
    dirty: bool
    later: int | None

    @property
    def old(self) -> bool:
        """Whether it may not describe the code beside it."""
        return self.dirty or self.later != 0

    def words(self) -> str:
        """As "current" or "3 later commits; local changes"."""
        later = (
            "commit not in this clone"
            if self.later is None
            else f"{self.later} later commit{'s' * (self.later != 1)}"
            if self.later
            else ""
        )
        return "; ".join(filter(None, (later, "local changes" if self.dirty else ""))) or "current"


def _commits_since(commit: str, paths: Sequence[str], root: Path) -> int | None:
    command = ["git", "-C", str(root), "rev-list", "--count", f"{commit}..HEAD", "--", *paths]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return int(done.stdout)


def ages(sources: Sources, root: Path = ROOT) -> list[Age]:
    """Of every result that was read, those of DEPENDS first; others depend on all sources."""
    found = []
    others = dict.fromkeys((what for what in sources.results if what not in DEPENDS), ("csrc", "ulp"))
    for what, paths in (DEPENDS | others).items():
        environment = sources.environment(what)
        if environment is None:
            continue
        commit = environment.get("commit") or ""
        cpu = (environment.get("machine") or {}).get("cpu") or "modelled cores"
        later = _commits_since(commit, paths, root) if commit else None
        found.append(Age(what, environment["date"][:10], cpu, commit, bool(environment.get("dirty")), later))
    there = ages(sources.other, root) if sources.other else []
    return found + [replace(age, what=f"{sources.other_name}/{age.what}") for age in there]
