"""Options that several functions take, and what each may be: one table. A value that cannot be honoured is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ._validate import integer

Check = Callable[[str, object], None]


def _flag(name: str, value: object) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={value!r}: expected True or False")


def _one_of(*words: str, also: tuple[str, ...] = ()) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, str) or value not in (*words, *also):
            raise ValueError(f"{name}={value!r}: expected {' or '.join(map(repr, words))}")

    return check


def _whole(low: int, high: int) -> Check:
    def check(name: str, value: object) -> None:
        integer(value, name, low, high)

    return check


OPTIONS: dict[str, Check] = {
    "strict": _flag,
    "tune": _flag,
    "progress": _flag,
    "codes_in": _flag,
    "codes_out": _flag,
    "bias_correction": _flag,
    "equalize": _flag,
    **dict.fromkeys(("dynamic", "batch_first", "bidirectional", "bias", "elementwise_affine"), _flag),
    "mode": _one_of("requantize", "threshold", also=("requantise",)),
    "hint": _one_of("latency", "throughput"),
    "functions": _one_of("float", "integer"),
    "floats": _one_of("onnxruntime", "numpy"),
    "group": _whole(1, 2**16),
}


def check_options(given: Mapping[str, object], **always: object) -> None:
    """ValueError or TypeError, naming option, value and what is expected. given: those that may be None, which leaves them out."""
    for name, value in {**always, **{name: value for name, value in given.items() if value is not None}}.items():
        OPTIONS[name](name, value)
