"""Models of sequences of any length up to a maximum: one network, from those that are loaded for the maximum and for one less."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ulp.nn.open_length import OpenNetwork, UnlikeError

from .model import OnnxError, Port
from .network import OnnxNetwork
from .stages import IntegerStage, IslandStage, Stage

Shapes = Mapping[str, Sequence[int]]


def opened(inputs: Sequence[Port], given: Shapes, max_length: int, load: Callable[[Shapes], OnnxNetwork]) -> OnnxNetwork:
    """The network for lengths 1 to max_length. load: that for some shapes of the inputs. OnnxError where there is no such network."""
    names = {side for port in inputs if port.name not in given and port.shape for side in port.shape[1:] if not isinstance(side, int)}
    if not names:
        raise OnnxError(f"max_length={max_length}: no input has an open side besides its batch; the lengths of its sequences are fixed")
    if len(names) > 1 and None not in names:
        raise OnnxError(f"max_length={max_length}: several sides are open, {', '.join(sorted(map(str, names)))}: name those in shapes=")
    longest, shorter = (load({**given, **_shapes(inputs, given, length)}) for length in (max_length, max_length - 1))
    stages = [_stage(one, other, max_length) for one, other in zip(longest.stages, shorter.stages, strict=False)]
    if len(longest.stages) != len(shorter.stages):
        raise OnnxError(
            f"max_length={max_length}: the model runs in {len(longest.stages)} parts, and one item shorter in {len(shorter.stages)}"
        )
    made = OnnxNetwork(
        longest.inputs, longest.outputs, stages, longest.constants, longest.layers, longest.opset, longest.limits, longest.structure
    )
    made.quantized, made.source = longest.quantized, longest.source
    return made


def _shapes(inputs: Sequence[Port], given: Shapes, length: int) -> dict[str, Sequence[int]]:
    found: dict[str, Sequence[int]] = {}
    for port in inputs:
        if port.name not in given and port.shape and any(not isinstance(side, int) for side in port.shape[1:]):
            first = port.shape[0] if isinstance(port.shape[0], int) else 1
            found[port.name] = (first, *(side if isinstance(side, int) else length for side in port.shape[1:]))
    return found


def _stage(one: Stage, other: Stage, max_length: int) -> Stage:
    if (one.reads, one.makes, type(one)) != (other.reads, other.makes, type(other)):
        raise OnnxError(f"max_length={max_length}: the parts of the model are others for one item less")
    if isinstance(one, IslandStage) and isinstance(other, IslandStage) and one.session.model != other.session.model:
        raise OnnxError(f"max_length={max_length}: {one.session.what}, which onnxruntime runs, is another one for one item less")
    if not isinstance(one, IntegerStage) or not isinstance(other, IntegerStage):
        return one
    if one.compiled.input_shapes == other.compiled.input_shapes:
        return one
    try:
        return IntegerStage(one.sources, one.results, OpenNetwork(one.compiled, other.compiled, max_length), one.codes)
    except UnlikeError as error:
        sources = ", ".join(map(repr, one.sources))
        raise OnnxError(f"max_length={max_length}: the integer part that reads {sources}: {error}; load it with shapes=") from None
