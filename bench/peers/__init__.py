"""The peers: of products here, of single convolutions in `convolution`, of whole networks in `network`.

One adapter each, with the interface of `base.Peer`, `convolution.ConvPeer` or `NetworkRuntime`. A new peer is a class
and a line in an `ALL`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from bench.subjects.interface import Library

from . import convolution, network
from .base import Peer, check
from .float32 import NumpyFloat32, TorchFloat32
from .gemmlowp import Gemmlowp
from .openvino import OpenVino
from .ort import OrtFloat32, OrtQLinear, OrtU8S8, OrtU8U8, OrtW2, OrtW4
from .torch_quantized import Fbgemm, OneDnn, Qnnpack
from .xnnpack import Xnnpack

ALL: tuple[type[Peer], ...] = (
    Qnnpack,
    Gemmlowp,
    Fbgemm,
    OneDnn,
    OrtU8S8,
    OrtU8U8,
    OrtQLinear,
    OpenVino,
    Xnnpack,
    OrtW4,
    OrtW2,
    NumpyFloat32,
    TorchFloat32,
    OrtFloat32,
)


# The benchmarks other than plain products, and their peers.
FAMILIES: dict[str, tuple[type[Library], ...]] = {"conv": convolution.ALL, "networks": network.ALL}

_Kind = TypeVar("_Kind", bound=Library)


def check_names(names: Sequence[str] | None) -> None:
    """ValueError lists the known names for one that no benchmark knows. None names all."""
    known = {peer.name for family in (ALL, *FAMILIES.values()) for peer in family}
    if names is not None and (unknown := [n for n in names if n not in known]):
        raise ValueError(f"unknown peers {unknown}; known are {sorted(known)}")


def chosen(family: Sequence[type[_Kind]], names: Sequence[str] | None) -> list[_Kind]:
    """One instance of each peer of a family that is named (None: of all), in the family's order."""
    return [peer() for peer in family if names is None or peer.name in names]


def named(names: Sequence[str] | None) -> list[Peer]:
    """One instance of each peer of products named (None: of all), in the order of `ALL`. ValueError as `check_names`."""
    check_names(names)
    return chosen(ALL, names)


__all__ = ["ALL", "FAMILIES", "Peer", "check", "check_names", "chosen", "convolution", "named", "network"]
