"""Which layer gets how many bits: what users write as `bits`, resolved to one pair per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ulp._validate import bit_width, named_pair


class Bits(NamedTuple):
    """Widths of a layer's weights and of the activations that it reads, each 1 to 8."""

    weight: int
    activation: int

    def __str__(self) -> str:
        return f"W{self.weight}A{self.activation}"


Assignment = dict[str, Bits | None]
"""The bits of each layer by its name; None: it stays in floats."""

_EXPECTED = "a width from 1 to 8, a text such as 'W4A8', or 'float'"


def bits_of(value: Any, what: str) -> Bits | None:
    """4, "W4A8", a `Bits`, or "float" (None). TypeError and ValueError name `what`."""
    if isinstance(value, Bits):
        return Bits(bit_width(value.weight, f"{what}.weight"), bit_width(value.activation, f"{what}.activation"))
    if isinstance(value, tuple):
        raise TypeError(f"{what}={value!r}: a pair can be read as (weights, activations) and, as in ulp.gemm, the other way: write 'W4A8'")
    if isinstance(value, str):
        if value.lower() == "float":
            return None
        if value.isascii() and value.isdigit():
            value = int(value)
        else:
            return Bits(*named_pair(value, what))
    try:
        width = bit_width(value, what)
    except TypeError as error:
        raise TypeError(f"{what}={value!r}: expected {_EXPECTED}") from error
    return Bits(width, width)


def assignment_of(bits: Any, names: Sequence[str], first_last_bits: int | None, calls: Mapping[str, str] | None = None) -> Assignment:
    """The bits of each layer.

    bits: for all layers, of which the first and the last then get at least `first_last_bits` (None: the same); or a mapping from names or
        patterns ("layer1.*", as fnmatch reads them) to bits. An exact name wins over patterns, of which the first that fits counts; "*"
        comes last, and layers that nothing names have 8 bits. ValueError for a name or a pattern that fits no layer, and for no entry.
    calls: of layers with the weights of one before, such as the calls of one module, the name of that one. What names it, names them, too,
        but for an entry of their own.
    """
    calls = calls or {}
    edges = {calls.get(name, name) for name in (names[0], names[-1])} if names else set()
    wide = None if first_last_bits is None else bit_width(first_last_bits, "first_last_bits")

    def at_edge(name: str, pair: Bits | None) -> Bits | None:
        return (
            Bits(*(max(wide, width) for width in pair))
            if pair is not None and wide is not None and calls.get(name, name) in edges
            else pair
        )

    if not isinstance(bits, Mapping):
        pair = bits_of(bits, "bits")
        return {name: at_edge(name, pair) for name in names}
    if not bits:
        raise ValueError("bits={} names no layer: write {'*': 4} for all of them")
    wanted: dict[str, Bits | None] = {}
    for pattern, value in bits.items():
        if not isinstance(pattern, str):
            raise TypeError(f"bits has the key {pattern!r}: expected names of layers, or patterns such as 'layer1.*'")
        wanted[pattern] = bits_of(value, f"bits[{pattern!r}]")
        if pattern != "*" and pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, 3) or list(names[:8])
            raise ValueError(f"bits[{pattern!r}] fits no layer; the model has {', '.join(near)}{', ...' if len(names) > len(near) else ''}")
    patterns = [pattern for pattern in wanted if pattern != "*"]
    found: Assignment = {}
    for name in names:
        own = [name, calls.get(name, name)]
        fits = [one for one in own if one in wanted] + [p for p in patterns if any(fnmatchcase(one, p) for one in own)]
        pattern = fits[0] if fits else None
        if pattern is not None:
            found[name] = wanted[pattern]
        else:
            found[name] = at_edge(name, wanted.get("*", Bits(8, 8)))
    return found
