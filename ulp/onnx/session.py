"""Float islands: sub-models that onnxruntime runs, one session each. Importing this module does not import onnxruntime."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ulp import _core
from ulp._core import num_threads

from .guards import GUARDED, refused
from .model import OnnxError

# Names of onnxruntime's types whose arrays numpy has.
_DTYPES = {
    **{f"tensor({name})": name for name in ("double", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")},
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}

# An optimization that fails for quantizers of other types than of 8 bits.
_OF_8_BITS = ("ClipQuantRewrite",)

_lock = threading.Lock()
_arena: list[bool] = []
_reopening = threading.Lock()
_forks = 0
_left: list[Any] = []


def _after_fork() -> None:
    """In the child: locks of onnxruntime and of this module may be held by threads that it has not, so it opens sessions of its own."""
    global _lock, _reopening, _forks
    _lock, _reopening = threading.Lock(), threading.Lock()
    _forks += 1
    _arena[:] = [False]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def available() -> bool:
    """Whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


class Session:
    """An island's session. It has as many threads as `ulp.set_num_threads` says.

    model: the serialized ModelProto. what: how messages name the island. folds: whether onnxruntime may compute constants while it loads.
    alone: whether it is all of a network: else it shares one arena of memory with all others, which takes some microseconds.
    guarded: whether the model has `Guards`. Without them, some operators are refused where all arrays are empty.
    optimized: a file that gets the model as onnxruntime runs it.
    types: of the results, as onnxruntime calls them. exact: whether no product of integers saturates on this CPU.
    inputs, results: names and dtypes; None for types that numpy has not.
    """

    def __init__(
        self, model: bytes, what: str, *, folds: bool = True, alone: bool = False, guarded: bool = False, optimized: Path | None = None
    ) -> None:
        self.model = model
        self.what = what
        self.folds = folds
        self.alone = alone
        self._open(optimized)
        ports = self._session.get_inputs(), self._session.get_outputs()
        self.types = [str(port.type) for port in ports[1]]
        self.inputs, self.results = ([(str(port.name), _dtype(port.type)) for port in some] for some in ports)
        self._names = [name for name, _ in self.results]
        # As protobuf writes the operator of a node (field 4), also of one in a body.
        self._fatal: list[str] = [] if guarded else [op for op in GUARDED if b'"' + bytes([len(op)]) + op.encode() in model]

    def _open(self, optimized: Path | None = None) -> None:
        threads = num_threads()
        self._session, self.exact = _open(self.model, self.what, threads, folds=self.folds, alone=self.alone, optimized=optimized)
        # As the session's own `run`, without checks in Python that take as long as a small island.
        self._state = threads, _forks, self._session._sess.run

    @property
    def options(self) -> Any:
        """onnxruntime's SessionOptions."""
        return self._session.get_session_options()

    @property
    def counts(self) -> tuple[int, int]:
        """How many arrays it reads and makes."""
        return len(self.inputs), len(self.results)

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """The results. float32 for a float16, and the reverse, is converted. OnnxError where onnxruntime fails."""
        return self.run(self._names, {name: fed(array, dtype) for (name, dtype), array in zip(self.inputs, arrays, strict=True)})

    def run(self, names: list[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The results of these names for arrays of the types in `inputs`, by name. OnnxError where onnxruntime fails."""
        if self._fatal:
            self._check_not_empty(feeds)
        threads, forks, run = self._state
        if threads != num_threads() or forks != _forks:
            with _reopening:
                if self._state[:2] != (num_threads(), _forks):
                    if self._state[1] != _forks:
                        _left.append(self._session)  # it would wait for its threads, which the child has not
                    self._open()
                run = self._state[2]
        try:
            results: list[Any] = run(names, feeds, None)
        except Exception as error:  # onnxruntime has a class for each of its codes
            empty = refused(str(error))
            reason = _first_line(error) if empty is None else f"onnxruntime cannot run {empty} on an empty tensor"
            raise OnnxError(f"{self.what}: {reason}") from error
        return results

    def _check_not_empty(self, feeds: Mapping[str, Any]) -> None:
        """Only some arrays may be empty: a decoder's cache, before its first token."""
        sizes = [array.size for array in feeds.values() if isinstance(array, np.ndarray) and array.ndim]
        if sizes and not any(sizes):
            raise OnnxError(f"{self.what}: onnxruntime cannot run {self._fatal[0]} on an empty tensor")


def _dtype(name: str) -> np.dtype[Any] | None:
    return np.dtype(_DTYPES[name]) if name in _DTYPES else None


def fed(array: Any, dtype: np.dtype[Any] | None) -> Any:
    """An array in the type that a session takes; what is no array as it is."""
    if dtype is None or not isinstance(array, np.ndarray) or array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # to infinity, as a Cast does
        return array.astype(dtype)


def _open(model: bytes, what: str, threads: int, *, folds: bool, alone: bool, optimized: Path | None) -> tuple[Any, bool]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f'{what}: running it needs the package onnxruntime: pip install "ulp-gemm[onnx]"') from error

    # Of two quantizers one behind the other it makes one, which rounds elsewhere; and it drops a Relu in front of a quantizer of 4 bits
    # whatever the zero point is. Of 8 bits, layers still take in the Relu.
    disabled = ["DoubleQDQPairsRemover", "ReluQuantRewrite", *([] if folds else ["ConstantFolding"])]

    def session(without: Sequence[str] = (), **entries: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        # Waiting threads would take the cores from integer parts. Floats stay floats where they meet int8 weights: onnxruntime would round
        # them to 8 bits.
        entries = {"intra_op.allow_spinning": "0", "qdq_matmulnbits_accuracy_level": "1", **entries}
        if not alone and _shared_arena(onnxruntime):
            entries["use_env_allocators"] = "1"
        for key, value in entries.items():
            options.add_session_config_entry(f"session.{key}", value)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*disabled, *without])

    # On CPUs without VNNI, sums of products of uint8 and int8 saturate: int8 weights become uint8, which takes longer. For int8 activations
    # with uint8 weights it has no such kernel. And it has no quantizer of 4 bits that takes in a Clip.
    precise = {"x64quantprecision": "0" if _has_vnni() else "1"}
    first: Exception | None = None
    for entries, without in ((precise, ()), ({}, ()), (precise, _OF_8_BITS), ({}, _OF_8_BITS)):
        try:
            return session(without, **entries), bool(entries) or _has_vnni()
        except Exception as error:  # onnxruntime has a class for each of its codes
            first = first or error
    assert first is not None
    raise OnnxError(f"{what}: {_first_line(first)}") from first


def _has_vnni() -> bool:
    return any("vnni" in isa for isa in _core.available_isas())


def _shared_arena(onnxruntime: Any) -> bool:
    """Whether sessions can share one arena of memory, which grows by what is asked for."""
    with _lock:
        if not _arena:
            try:
                kinds = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
                info = onnxruntime.OrtMemoryInfo("Cpu", kinds[0].ORT_ARENA_ALLOCATOR, 0, kinds[1].DEFAULT)
                onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg(0, 1, -1, -1))
                _arena.append(True)
            except Exception:  # the caller's program has registered one, or this version cannot
                _arena.append(False)
        return _arena[0]


def _first_line(error: Exception) -> str:
    return f"onnxruntime: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__:.600}"
