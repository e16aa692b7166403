"""A network on a GPU while it is built, and what its steps share: tensors, ports, weights on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ulp import _core

Fields = Mapping[str, Any]
TENSORS = ("codes", "floats")
# Planes pad channels to 128: fewer than this, and most of what they multiply is padding.
_MIN_PLANE_CHANNELS = 32
# Which of 128 channels each row of weights is, so that a word of planes has neighbouring channels: csrc/cuda/planes.cuh has row
# 32 s + 16 u + 4 t + j at bit 8 j + 4 u + d(s) of word t.
_s, _u, _t, _j = np.ogrid[:4, :2, :4, :4]
_PLANE_ORDER = (32 * _t + 8 * _j + 4 * _u + np.array([0, 2, 1, 3])[_s]).reshape(128)


class Tensor(NamedTuple):
    """An image of the plan."""

    height: int
    width: int
    channels: int
    codes: bool
    bits: int = 0
    zero: int = 0
    scale: float = 1.0

    @property
    def pixel(self) -> int:
        """Elements from a pixel to the next on the device: codes are padded to a multiple of 4."""
        return -(-self.channels // 4) * 4 if self.codes else self.channels

    @property
    def elements(self) -> int:
        """Of an image, with what pads its pixels."""
        return self.height * self.width * self.pixel


class Port(NamedTuple):
    """What a call brings or gets, for one image."""

    shape: tuple[int, int, int]
    dtype: str


class Builder:
    """The network, its tensors and ports. methods: names of kernels, by the number of the step."""

    def __init__(self, module: Any, device: int, methods: Mapping[int, str] | None = None) -> None:
        self.module = module
        self.device = device
        self.network = module.Network(device)
        self.tensors: list[Tensor] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.steps = 0
        self._weights: dict[tuple[Any, ...], tuple[Any, int, Any]] = {}
        self._methods = methods or {}

    def add_tensor(self, kind: str, fields: Fields) -> None:
        """One of the plan's, "codes" or "floats"."""
        codes = {"bits": int(fields["bits"]), "zero": int(fields["zero"])} if kind == "codes" else {}
        scale = float(np.float32(fields.get("scale", 1.0)))
        sides = {side: int(fields[side]) for side in ("height", "width", "channels")}
        self.tensors.append(Tensor(**sides, codes=kind == "codes", **codes, scale=scale))
        getattr(self.network, kind)(**sides, **codes, **({"scale": scale} if codes else {}))

    @property
    def method(self) -> str:
        """The kernel that the next convolution is to use; "": the best."""
        return self._methods.get(self.steps, "")

    def weights(self, packed: Any, zero: int, taps: tuple[int, int], channels: int) -> tuple[Any, int]:
        """Weights on the device, K x N in the order (ky, kx, c), and their zero point; packed once, however many steps use them.

        channels: of the image, below 4 where weights may be padded by kernel rows (csrc/conv/conv.h: tight).
        """

        def make() -> tuple[npt.NDArray[Any], int, int]:
            values = _core.unpack(packed)
            by_rows = taps[0] * (-(-taps[1] * channels // 4) * 4)
            if channels < 4 and taps[1] > 1 and packed.k == by_rows:
                values = _by_taps(values, taps, channels)
            bits = 4 if packed.bits <= 4 else 8  # csrc/cuda/conv_rows.cuh: find_conv
            return *_centred(values, bits, zero), bits

        return self._kept((id(packed), zero, taps, channels), packed, make)

    def planes(self, packed: Any, zero: int, taps: int, own: int, a_bits: int) -> tuple[Any, int]:
        """The same for 1-bit tensor cores, whose taps have whole blocks of 128 channels; (None, 0) where bytes are faster.

        own: the channels of the image that the layer reads. a_bits: of its codes.
        """
        pays = own >= _MIN_PLANE_CHANNELS and self.module.planes_pay(a_bits=a_bits, b_bits=packed.bits, device=self.device)
        if not pays:
            return None, 0

        def make() -> tuple[npt.NDArray[Any], int, int]:
            values = _core.unpack(packed)
            rows = values.reshape(taps, -1, values.shape[1])[:, :own]
            rows, kept = _centred(rows, packed.bits, zero)
            bipolar = rows.dtype == np.int8 and packed.bits == 1
            # What is stored as 0 (csrc/cuda/arguments.h).
            fill = 1 if bipolar else 0 if rows.dtype == np.int8 else 2 ** (packed.bits - 1)
            rows = np.pad(rows, ((0, 0), (0, -own % 128), (0, 0)), constant_values=fill)
            rows = rows.reshape(-1, 128, values.shape[1])[:, _PLANE_ORDER]
            return rows.reshape(-1, values.shape[1]), kept, packed.bits

        return self._kept((id(packed), zero, taps, own, "planes"), packed, make)

    def _kept(self, key: tuple[Any, ...], packed: Any, make: Callable[[], tuple[npt.NDArray[Any], int, int]]) -> tuple[Any, int]:
        """Weights on the device and their zero point, made of (values, zero point, bits) once per key."""
        if key not in self._weights:
            values, kept, bits = make()
            made = self.module.Weights.from_host(np.ascontiguousarray(values), bits, self.device)
            self._weights[key] = made, kept, packed  # which keeps the id its own
        made, kept, _ = self._weights[key]
        return made, kept


def _by_taps(values: npt.NDArray[Any], taps: tuple[int, int], channels: int) -> npt.NDArray[Any]:
    """Weights padded by kernel rows as weights padded by taps: channels become 4."""
    height, width = taps
    n = values.shape[1]
    rows = values.reshape(height, -1, n)[:, : width * channels].reshape(height, width, channels, n)
    # Codes behind the channels are the zero point, so any weight will do there.
    padded = np.full((height, width, 4, n), values.flat[0], dtype=values.dtype)
    padded[:, :, :channels] = rows
    return padded.reshape(height * width * 4, n)


def _centred(values: npt.NDArray[Any], bits: int, zero: int) -> tuple[npt.NDArray[Any], int]:
    """Values of so many bits and their zero point: signed without one where that fits, which spares the sums of the windows' codes."""
    if bits == 1 or (values.dtype == np.int8 and zero == 0):  # signed values of 1 bit are -1 and 1
        return values, zero
    centred = values.astype(np.int32) - zero
    if -(2 ** (bits - 1)) <= int(centred.min()) and int(centred.max()) < 2 ** (bits - 1):
        return centred.astype(np.int8), 0
    return values, zero


def pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def place_or_none(value: Any) -> tuple[int, int] | None:
    return None if value is None else pair(value)
