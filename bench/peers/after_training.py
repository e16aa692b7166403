"""Other tools that quantize float models after training, to int8: onnxruntime's `quantize_static`, and NNCF. Both give files of QDQ."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def onnxruntime_static(model: bytes, calibrate: list[F32]) -> bytes:
    """Unsigned activations by their extremes, signed weights per channel by their largest: as its documentation recommends for CPUs.

    reduce_range is off: onnxruntime runs the result by kernels that do not saturate where the CPU has VNNI, and elsewhere with the loss
    that its users have.
    """
    from onnxruntime import quantization as tool

    class Batches(tool.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.feeds: Iterator[dict[str, F32]] = iter([{name: batch} for batch in calibrate])

        def get_next(self) -> dict[str, F32] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, made = (Path(folder) / f"{name}.onnx" for name in ("prepared", "made"))
        prepared.write_bytes(_prepared(model))
        tool.quantize_static(
            str(prepared), str(made), Batches(_input(model)), quant_format=tool.QuantFormat.QDQ, per_channel=True,
            activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
        )  # fmt: skip
        return made.read_bytes()


def _prepared(model: bytes) -> bytes:
    """As both tools recommend before: constants folded, batch normalizations in convolutions, the shapes of all tensors known."""
    from onnxruntime import quantization as tool

    with tempfile.TemporaryDirectory() as folder:
        given, prepared = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared"))
        given.write_bytes(_with_axes(model))
        tool.quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        return prepared.read_bytes()


def _with_axes(model: bytes) -> bytes:
    """The model with an opset whose DequantizeLinear takes scales per channel."""
    import onnx
    import onnx.version_converter

    proto = onnx.load_from_string(model)
    if max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")) < 13:
        proto = onnx.version_converter.convert_version(proto, 13)
    return bytes(proto.SerializeToString())


def nncf_static(model: bytes, calibrate: list[F32]) -> bytes:
    """nncf.quantize with its defaults, which count inputs one by one."""
    import nncf
    import onnx

    name = _input(model)
    inputs = [{name: batch[i : i + 1]} for batch in calibrate for i in range(len(batch))]
    made = nncf.quantize(onnx.load_from_string(_prepared(model)), nncf.Dataset(inputs, lambda feed: feed))
    return bytes(made.SerializeToString())


def _input(model: bytes) -> str:
    import onnx

    return str(onnx.load_from_string(model).graph.input[0].name)


def found(names: Iterable[str]) -> dict[str, Callable[[bytes, list[F32]], bytes]]:
    """The tools that are installed, of those named."""
    tools = {"onnxruntime int8": ("onnxruntime", onnxruntime_static), "NNCF int8": ("nncf", nncf_static)}
    return {name: run for name, (package, run) in tools.items() if name in names and importlib.util.find_spec(package)}


NAMES = ("onnxruntime int8", "NNCF int8")
