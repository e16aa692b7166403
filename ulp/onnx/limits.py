"""Limits of what a model may need. A file states sizes in a few bytes; they are checked against these limits before anything is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ulp._validate import integer
from ulp.onnx.model import OnnxError

# Of numpy's functions that broadcast.
MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class Limits:
    """What `ulp.load` accepts. Raise what a model of yours needs: `ulp.load(path, limits=ulp.onnx.Limits(tensor_bytes=8 << 30))`.

    file_bytes: the model's file; protobuf itself ends at 2 GiB, larger models keep their weights in external data.
    fields: fields of the protobuf: names, sides, attributes, unpacked numbers. Each takes a few bytes in a file, and up to some
        hundred in memory.
    nodes: nodes of the graph.
    tensor_bytes: any one tensor: an initialiser, what constants are folded to, the result of a float operator, its windows unrolled.
    constant_bytes: all initialisers and folded constants together.
    result_bytes: all results of nodes for a batch of one together: floats, or one byte per value for nodes in integers.
    operations: multiplications, comparisons and the like that folding constants takes while a model is loaded; 10^9 take some seconds.
    call_operations: multiplications and what takes as long as these that one call takes for a batch of one, where the file says so (not in
        loops); a comparison of a pooling counts as 64. 10^11 take some seconds.
    """

    file_bytes: int = 2**31
    fields: int = 4_000_000
    nodes: int = 100_000
    tensor_bytes: int = 2**31
    constant_bytes: int = 2**33
    result_bytes: int = 2**33
    operations: int = 2**31
    call_operations: int = 2**43

    def __post_init__(self) -> None:
        for field in fields(self):
            integer(getattr(self, field.name), field.name, 1, 2**62)

    @staticmethod
    def of(limits: Limits | None) -> Limits:
        """What was given, or the defaults. TypeError for anything else."""
        if not isinstance(limits, Limits | None):
            raise TypeError(f"limits={limits!r}: expected ulp.onnx.Limits, such as Limits(tensor_bytes=8 << 30)")
        return limits or Limits()

    def check_constants(self, nbytes: int) -> None:
        """OnnxError where all constants together take more than constant_bytes."""
        if nbytes > self.constant_bytes:
            raise OnnxError(f"the model's constants take more than the limit constant_bytes={self.constant_bytes}")

    def check_operations(self, count: int) -> None:
        """OnnxError where folding constants takes more than `operations`."""
        if count > self.operations:
            raise OnnxError(f"the model's constants take more to compute than the limit operations={self.operations}")

    def check_call(self, count: int) -> None:
        """OnnxError where a call takes more than `call_operations`."""
        if count > self.call_operations:
            raise OnnxError(f"a call would compute more than the limit call_operations={self.call_operations}")

    def check_results(self, nbytes: int) -> None:
        """OnnxError where all results of nodes take more than result_bytes."""
        if nbytes > self.result_bytes:
            raise OnnxError(f"what the nodes make takes more than the limit result_bytes={self.result_bytes}")

    def check_tensor(self, shape: Sequence[int], itemsize: int) -> None:
        """OnnxError where an array of this shape would take more than tensor_bytes, or is none that numpy makes."""
        self.check_size(shape, itemsize)
        if len(shape) > MAX_DIMENSIONS:
            raise OnnxError(f"a tensor of {len(shape)} dimensions: expected {MAX_DIMENSIONS} at most")
        # Without elements, too, sides have to fit an address.
        if math.prod(side or 1 for side in shape) * itemsize >= 2**62:
            raise OnnxError(f"a tensor of {_sides(shape)} has sides that are too large, even if it is empty")

    def check_size(self, shape: Sequence[int], itemsize: int) -> None:
        """OnnxError where an array of this shape would take more than tensor_bytes."""
        size = math.prod(shape) * itemsize
        if size > self.tensor_bytes:
            raise OnnxError(f"a tensor of {_sides(shape)} takes {size} bytes, more than the limit tensor_bytes={self.tensor_bytes}")


def _sides(shape: Sequence[int]) -> str:
    return f"{'x'.join(str(side) for side in shape):.100}"
