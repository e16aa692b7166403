"""How a library runs a subject: what it says of itself, and how its result compares with the exact one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from .models import F32, Model

Kind = Literal["int8", "fp32", "info", "ulp"]


class WrongResultError(AssertionError):
    """A result differs from the exact reference: its speed means nothing."""


@dataclass(frozen=True)
class Check:
    """How a result compares with the reference.

    max_error: the largest absolute error in units of the peer's output. step: accumulator units that one output unit stands for (1 where
    the peer returns accumulators). wrong_share: the share of wrong elements, 0 .. 1.
    """

    exact: bool
    max_error: float
    wrong_share: float
    step: float

    def as_dict(self) -> dict[str, Any]:
        """As the result files keep it."""
        return asdict(self)

    def words(self) -> str:
        """One phrase for a table: "exact" or how wrong."""
        if self.exact:
            return "exact"
        if self.step == 1:
            return f"wrong by up to {self.max_error:,.0f} ({self.wrong_share:.1%} of elements)"
        return (
            f"wrong by up to {self.max_error:.0f} of 255 output levels, about {self.max_error * self.step:,.0f} in the accumulator "
            f"({self.wrong_share:.1%} of elements)"
        )


EXACT = Check(True, 0.0, 0.0, 1.0)


def compare(result: npt.NDArray[Any], expected: npt.NDArray[Any], step: float = 1.0) -> Check:
    """Element by element; ValueError when the shapes differ, since a broadcast would hide it. A NaN counts as an infinite error."""
    if result.shape != expected.shape:
        raise ValueError(f"result has shape {result.shape}, the reference {expected.shape}")
    if result.size == 0:
        return Check(True, 0.0, 0.0, step)
    error = np.abs(result.astype(np.float64) - expected.astype(np.float64))
    error[np.isnan(error)] = np.inf
    wrong = int(np.count_nonzero(error))
    return Check(wrong == 0, float(error.max()), wrong / error.size, step)


def counted(names: Iterable[str]) -> str:
    """Each name with how often it occurs, as in "jit_avx2_I8 x20, reorder x2"."""
    return ", ".join(f"{name} x{count}" for name, count in sorted(Counter(names).items()))


class Library(ABC):
    """What every peer says of itself, whatever it computes.

    name: as in tables and result files. kind: "int8" (u8 x s8), "fp32", "info" (a format that computes something else, shown beside), or
    "ulp" itself where it is run by the same interface. note: what a reader must know to judge the figure. packages: what it needs, the one
    that does the work first.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    note: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()

    def why_unavailable(self) -> str | None:
        """None when the peer can run here, else the reason and what to install."""
        missing = [p for p in self.packages if importlib.util.find_spec(p) is None]
        return f"not installed: pip install {' '.join(missing)}" if missing else None

    def how_to_get(self) -> str | None:
        """The one command that installs what is missing; None where nothing is, or no command helps."""
        reason = self.why_unavailable()
        found = re.search(r"(?:pip|apt-get) install .+", reason or "")
        return found[0] if found else None

    def version(self) -> str:
        """The version of the package that does the work."""
        return importlib.metadata.version(self.packages[0])


class NetworkRuntime(Library):
    """A runtime that runs a network."""

    @abstractmethod
    def build(self, model: Model, directory: Path) -> Path:
        """Write the model in the runtime's form and return the file. May take seconds and any memory."""

    @abstractmethod
    def load(self, name: str, path: Path, x: F32, threads: int) -> Any:
        """State for running the network `name` from the file that `build` wrote on x (1, 3, 224, 224)."""

    def before(self, threads: int) -> None:
        """Set what is global to the process, ahead of each sample. Most runtimes keep the number of threads in the model."""

    @abstractmethod
    def run(self, state: Any) -> object:
        """One image in the calling thread and those it was given. Nothing else may happen here."""

    @abstractmethod
    def result(self, state: Any) -> F32:
        """Run once and return the scores (1, classes)."""

    def precision(self, state: Any) -> str:
        """The kernels that really run, as the runtime reports it; "" where it does not."""
        del state
        return ""

    def model_bytes(self, state: Any) -> int:
        """Bytes of the weights as the runtime holds them; 0 where it does not report it."""
        del state
        return 0
