"""`CudaNetwork`: a compiled network on a GPU."""

from __future__ import annotations

from typing import Any

from ulp._gpu import native
from ulp._gpu.arrays import on_gpu
from ulp._gpu.network import DeviceNetwork
from ulp._gpu.steps import without_form
from ulp._table import Printed, Table

from .shapes import shape_text

AUTO = "auto"


class CudaNetwork(Printed):
    """A compiled network whose steps run on one GPU; made by `CompiledNetwork.to`. Its results are the CPU's, bit for bit.

    device: "cuda:0". The rest as for `CompiledNetwork`. Any number of threads may call it; runs take turns. Weights are packed there once.
    Activations have one block of memory, as large as the largest batch so far needs. The kernels of each batch size are
    recorded in a CUDA graph when it first comes.
    """

    def __init__(self, compiled: Any, index: int) -> None:
        self._compiled = compiled
        self._index = index
        labels = [f"{label.name} ({label.kind})" if label.name else label.kind for label in compiled._lowered.labels]
        self._network = DeviceNetwork(compiled._lowered.script.calls, labels, index)
        self.device = f"cuda:{index}"
        self.input_shapes, self.input_shape = compiled.input_shapes, compiled.input_shape
        self.output_shapes, self.input_quantizer = compiled.output_shapes, compiled.input_quantizer
        self.mode, self.hint = compiled.mode, compiled.hint

    def __call__(self, x: Any, *others: Any) -> Any:
        """The network's result for x. Arrays on the device give arrays there, of x's library; numpy and tensors on the CPU are copied.

        On the device x is float32 (N, *input_shape), uint8 codes for codes_in, of torch, cupy, or anything with
        `__cuda_array_interface__` or `__dlpack__`. The work goes to the current stream of x's library and is not waited for. NaNs,
        infinities and codes out of range are found on the CPU's way only, or with ULP_CUDA_CHECK=1. Raises as `CompiledNetwork` does, and
        MemoryError.
        """
        given = (x, *others)
        places = [on_gpu(array) for array in given]
        if any(places):
            if not all(places):
                raise ValueError("some inputs are on the CPU and some on a GPU: move all to one place")
            self._compiled.check_inputs(given)
            return self._compiled.packed(self._network.on_device(given, self.output_shapes))
        arrays, back = self._compiled._inputs(*given)
        shaped = self._compiled._lowered.shaped(arrays)
        results = self._network.on_host(shaped if len(arrays) > 1 else [shaped], self.output_shapes)
        return self._compiled.packed([back(result) for result in results])

    run = __call__

    def to(self, device: Any) -> Any:
        """The `CompiledNetwork` it was made of for "cpu"; for another GPU a copy there; for its own the network itself."""
        if device == self.device or (device in ("cuda", AUTO)):
            return self
        return self._compiled.to(device)

    def __reduce__(self) -> Any:
        return _again, (self._compiled, self.device)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, as on the CPU."""
        return int(self._compiled.nbytes)

    @property
    def memory(self) -> int:
        """Bytes of the activations of one image on the device; a batch of N takes N times as many."""
        return self._network.arena_bytes

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return int(self._compiled.macs)

    def _table(self) -> Table:
        steps = self._compiled._plan.steps()
        # Results come last on the device.
        order = sorted(range(len(steps)), key=lambda i: steps[i]["kind"] == "output")
        methods = dict(zip(order, self._network.methods(1), strict=True))
        rows = [
            (label.name, label.kind, step["name"], methods[i])
            for i, (label, step) in enumerate(zip(self._compiled._lowered.labels, steps, strict=True))
        ]
        title = (
            f"CudaNetwork on {self.device}: {', '.join(map(shape_text, self.input_shapes))} -> "
            f"{', '.join(map(shape_text, self.output_shapes))}, {self.macs / 1e6:.1f} MMAC; kernels for one image"
        )
        return Table(("layer", "type", "step", "kernel"), rows, title=title)

    def __repr__(self) -> str:
        return f"<{str(self).splitlines()[0]}>"


def placed(compiled: Any, device: Any) -> Any:
    """The network where `device` says: "cpu"; "cuda", "cuda:1"; "auto": a GPU if there is one and every step has a form there."""
    if device == AUTO:
        if not usable() or without_form(compiled._lowered.script.calls, [""] * len(compiled._lowered.labels)):
            return compiled
        device = "cuda"
    index = native.device_index(device)
    return compiled if index is None else CudaNetwork(compiled, index)


def check_device(device: Any) -> None:
    """What `placed` raises for the device alone: TypeError, ValueError, RuntimeError."""
    if device != AUTO:
        native.device_index(device)


def usable() -> bool:
    """Whether this build has the CUDA module, and the machine a device."""
    try:
        native.devices()
    except RuntimeError:
        return False
    return True


def _again(compiled: Any, device: str) -> Any:
    return placed(compiled, device)
