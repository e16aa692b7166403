"""The peers, one adapter each behind the interface of `base.Peer`. A new peer is a class and a line in `ALL`."""

from __future__ import annotations

from .base import Check, Peer, check, compare
from .float32 import NumpyFloat32, TorchFloat32
from .gemmlowp import Gemmlowp
from .openvino import OpenVino
from .ort import OrtFloat32, OrtU8S8, OrtU8U8, OrtW2, OrtW4
from .torch_quantized import Fbgemm, OneDnn, Qnnpack

ALL: tuple[type[Peer], ...] = (
    Qnnpack,
    Gemmlowp,
    Fbgemm,
    OneDnn,
    OrtU8S8,
    OrtU8U8,
    OpenVino,
    OrtW4,
    OrtW2,
    NumpyFloat32,
    TorchFloat32,
    OrtFloat32,
)


def named(names: list[str] | None) -> list[Peer]:
    """One instance of each peer named (None: of all), in the order of `ALL`. ValueError lists the known names for one that is not."""
    known = {peer.name: peer for peer in ALL}
    if names is not None and (unknown := [n for n in names if n not in known]):
        raise ValueError(f"unknown peers {unknown}; known are {sorted(known)}")
    return [peer() for name, peer in known.items() if names is None or name in names]


__all__ = ["ALL", "Check", "Peer", "check", "compare", "named"]
