"""What runs a model that was read: plans, with islands between them, or where it is tuned, onnxruntime alone if that is faster."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from .build import Built, Compilation, build, constants_of
from .inference import Inferred, Sides
from .islands import Maker, form
from .limits import Limits
from .model import Model, OnnxError
from .network import OnnxNetwork
from .rivals import REASON, is_faster_whole, left_to_onnxruntime, may_be_left, scattered_products
from .stages import IntegerStage
from .table import layer_rows


@dataclass(frozen=True)
class Choice:
    """A model and how it is compiled. normal: as normalised; one, free: what is known of it for one image, and of sides left open."""

    model: Model
    normal: Model
    one: Inferred
    free: Inferred
    inside: Set[str]
    compilation: Compilation
    limits: Limits

    def built(self, floats: Mapping[str, str] | None = None, *, small_floats: bool = True) -> Built:
        """The stages, with these nodes in floats. small_floats: as for `Compilation`."""
        return build(self.normal, self.one, self.inside, replace(self.compilation, small_floats=small_floats), self.limits, floats or {})

    def network(self, built: Built) -> OnnxNetwork:
        """What runs these stages."""
        rows = layer_rows(self.normal, built)
        stages, constants, model = built.stages, built.constants, self.model
        if self.compilation.islands:
            stages = form(stages, built.scope, model, self.normal, self.one.tensors, self.free.tensors)
            constants = constants_of(stages, model, built.scope)
        elif set(model.protos) - set(constants) & {name for stage in stages for name in stage.reads}:
            raise OnnxError("the file has tensors of types that only onnxruntime knows: pip install onnxruntime")
        return OnnxNetwork(model.inputs, model.outputs, stages, constants, rows, model.opset, self.limits)

    def fastest(self, built: Built, shapes: Mapping[str, Sides | None]) -> OnnxNetwork:
        """The network of these stages, or of less in integers, as measured. shapes: of the inputs, for one image."""
        scattered = scattered_products(built, self.normal)
        if scattered:
            built = self.built(scattered)
        rival = built
        if built.scope.reasons and may_be_left(built, self._maker(built)):  # a layer in floats does not give the same bits
            rival = self.built(scattered, small_floats=False)
        left, same = left_to_onnxruntime(rival, self._maker(rival))
        found = self.network(self.built({**scattered, **left}) if left else built)
        if same and len(found.stages) > 1 and any(isinstance(stage, IntegerStage) for stage in found.stages):
            whole = self.network(self.built(dict.fromkeys((node.name for node in self.normal.nodes), REASON)))
            if len(whole.stages) == 1 and is_faster_whole(found, whole, self.model.inputs, shapes):
                return whole
        return found

    def _maker(self, built: Built) -> Maker:
        return Maker(built.scope, self.model, self.normal, self.one.tensors, self.free.tensors)
