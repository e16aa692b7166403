"""`ulp` on a device as the benchmarks call it: the native module on torch's tensors, so that any kernel can be forced and captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.subjects import installed

from . import work
from .device import Call, gpu, torch
from .operands import interval
from .work import Work

DEVICE = 0


def random_values(shape: tuple[int, int], bits: int) -> Any:
    """int8 on the device, uniform over the signed interval; one bit is -1 or +1."""
    t = torch()
    low, high = interval(bits, True)
    if bits == 1:
        return (2 * t.randint(0, 2, shape, device="cuda") - 1).to(t.int8)
    return t.randint(low, high + 1, shape, device="cuda", dtype=t.int8)


def exact(a: Any, b: Any) -> Any:
    """a (m, k) times b (n, k) transposed, int32: by float64, exact as every sum stays below 2^53."""
    t = torch()
    return (a.double() @ b.double().t()).to(t.int32)


@dataclass(frozen=True)
class Requantized:
    """The fused epilogue of the square: `bits` signed, scaled by `scale`."""

    bits: int
    scale: float

    def expected(self, sums: Any) -> Any:
        """int8 on the device."""
        low, high = interval(self.bits, True)
        return (sums.float() * torch().tensor(self.scale, dtype=torch().float32, device="cuda")).round().clamp(low, high).to(torch().int8)


class Layer:
    """The weights of one (N, K): int8 values of each width (n, k), and packed copies enough to rotate over."""

    def __init__(self, module: Any, n: int, k: int, widths: Sequence[int]) -> None:
        self.module, self.n, self.k = module, n, k
        self.gpu = gpu()
        self.values = {bits: random_values((n, k), bits) for bits in widths}
        self.packed = {bits: self._pack(bits) for bits in widths}

    def _pack(self, bits: int) -> list[Any]:
        value = self.values[bits]
        nbytes = self.n * self.k * bits // 8
        count = work.slots(nbytes, self.gpu.l2_bytes, self.gpu.memory_bytes)
        stream = int(torch().cuda.current_stream().cuda_stream)
        pack = self.module.Weights.from_device
        return [pack(value.data_ptr(), self.k, self.n, 1, self.k, True, bits, DEVICE, stream) for _ in range(count)]


class Subject:
    """The installed package's module for this device."""

    def __init__(self) -> None:
        installed.load()
        from ulp._gpu import native

        self.module: Any = native.load()
        self.gpu = gpu()
        facts = self.module.devices()[DEVICE]
        self.arch, self.sms = int(facts["arch"]), int(facts["sms"])

    def layer(self, n: int, k: int, widths: Sequence[int]) -> Layer:
        """Fresh weights."""
        return Layer(self.module, n, k, widths)

    def choice(self, w: Work, kernel: str | None) -> dict[str, Any]:
        """What `pick` says. ValueError where the kernel cannot."""
        chosen: dict[str, Any] = self.module.pick(w.m, w.n, w.k, w.a_bits, True, w.b_bits, self.arch, self.sms, True, kernel)
        return chosen

    def runs(self, w: Work, kernel: str) -> bool:
        """Whether the kernel, with its forced splits, can run this."""
        try:
            self.choice(w, kernel)
        except ValueError:
            return False
        return True

    def call(
        self, w: Work, layer: Layer, a: Sequence[Any], outs: Sequence[Any], right: Callable[[Any], bool], least_ns: float, *,
        kernel: str | None = None, epilogue: Requantized | None = None, name: str | None = None,
    ) -> Call:  # fmt: skip
        """The product on the layer's packed copies, a's and the results' buffers in turn."""
        chosen = self.choice(w, kernel)
        weights = layer.packed[w.b_bits]
        size = int(chosen["workspace_bytes"])
        workspace = torch().empty(max(1, size), dtype=torch().uint8, device="cuda")
        module = self.module
        operands = [module.Activations(pointer=x.data_ptr(), m=w.m, row_stride=w.k, bits=w.a_bits, signed=True) for x in a]
        end = module.Epilogue()
        if epilogue:
            end = module.Epilogue(kind="quantized", scale=epilogue.scale, out_bits=epilogue.bits, out_signed=True)

        def run(slot: int) -> None:
            module.gemm(
                operands[slot % len(operands)], weights[slot % len(weights)], end, out=outs[slot].data_ptr(), out_stride=w.n,
                workspace=workspace.data_ptr() if size else 0, workspace_bytes=size,
                stream=int(torch().cuda.current_stream().cuda_stream), kernel=kernel,
            )  # fmt: skip

        info = {"kernel": chosen["kernel"], "splits": chosen["splits"], "grid": list(chosen["grid"]), "text": chosen["text"]}
        if "clocks" in chosen:
            info["modelled_clocks"] = chosen["clocks"]
        return Call(name or f"ulp {w.pair}", "ulp", run, outs, w.macs, w.nbytes, least_ns, (w.a_bits, w.b_bits), right, info)
