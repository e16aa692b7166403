"""gemmlowp (header-only, Debian's libgemmlowp-dev), compiled with its AVX2 kernel; int32 out.

gemmlowp packs its weights in every call and offers no other way; that is part of its figure.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import operands

from . import native
from .base import Peer

HEADER = "gemmlowp/public/gemmlowp.h"
INCLUDE_DIRS = ("/usr/include", "/usr/local/include", "/opt/homebrew/include")
DPKG_STATUS = Path("/var/lib/dpkg/status")


def _flags() -> tuple[str, ...]:
    # Without the define gemmlowp falls back to its SSE4 kernel, a quarter slower.
    return ("-mavx2", "-mfma", "-DGEMMLOWP_ENABLE_AVX2") if native.x86_avx2() else ()


def _load() -> Any:
    library = native.load("gemmlowp_peer.cpp", _flags())
    library.gemmlowp_new.restype = ctypes.c_void_p
    library.gemmlowp_new.argtypes = [ctypes.c_int] * 3 + [ctypes.c_void_p] * 3
    library.gemmlowp_run.argtypes = [ctypes.c_void_p]
    library.gemmlowp_run.restype = None
    library.gemmlowp_free.argtypes = [ctypes.c_void_p]
    library.gemmlowp_free.restype = None
    return library


@dataclass
class _State:
    """Owns the native handle and the arrays that it points into."""

    handle: ctypes.c_void_p
    function: Callable[[ctypes.c_void_p], None]
    free: Callable[[ctypes.c_void_p], None]
    activations: operands.U8
    weights: operands.U8
    out: npt.NDArray[np.int32]

    def __del__(self) -> None:
        self.free(self.handle)


class Gemmlowp(Peer):
    """gemmlowp's GemmWithOutputPipeline with an empty pipeline."""

    name = "gemmlowp"
    kind = "int8"
    exact = True
    max_activation = 255
    output = "int32"
    note = "packs its weights in every call"

    def why_unavailable(self) -> str | None:
        if not any((Path(d) / HEADER).exists() for d in INCLUDE_DIRS):
            return "headers not found: apt-get install libgemmlowp-dev"
        try:
            _load()
        except native.BuildError as error:
            return str(error)
        return None

    def version(self) -> str:
        """The Debian package's version; "unknown" where the headers came another way, since gemmlowp itself has no version."""
        if DPKG_STATUS.exists():
            found = re.search(r"^Package: libgemmlowp-dev\n(?:.+\n)*?Version: (.+)$", DPKG_STATUS.read_text(encoding="utf-8"), re.MULTILINE)
            if found:
                return found.group(1)
        return "unknown"

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        library = _load()
        m, k = a.shape
        n = b.shape[1]
        activations = np.ascontiguousarray(a)
        shifted = np.ascontiguousarray((b.T.astype(np.int16) + 128).astype(np.uint8))
        out = np.zeros((m, n), dtype=np.int32)
        handle = library.gemmlowp_new(m, n, k, activations.ctypes.data, shifted.ctypes.data, out.ctypes.data)
        return _State(ctypes.c_void_p(handle), library.gemmlowp_run, library.gemmlowp_free, activations, shifted, out)

    def run(self, state: _State) -> object:
        state.function(state.handle)
        return None

    def result(self, state: _State) -> npt.NDArray[Any]:
        state.out.fill(-1)
        state.function(state.handle)
        return np.array(state.out, copy=True)
