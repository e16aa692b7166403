"""The saved form of a loaded model: its plans (ulp/nn/saved.py), the nodes between them, and the table of layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ulp.nn import saved
from ulp.nn.compiled import CompiledNetwork, Structure
from ulp.nn.open_length import OpenNetwork
from ulp.nn.saved import members
from ulp.nn.script import Arrays, Decoder, encode

from .limits import Limits
from .model import Array, Node, Port
from .session import Session
from .stages import Codes, FloatStage, IntegerStage, IslandStage, LayerRow, Stage
from .wire import check_wire

KIND = "OnnxNetwork"


class Contents(NamedTuple):
    """What a file holds: everything that an `OnnxNetwork` is made of, but for its limits."""

    inputs: Sequence[Port]
    outputs: Sequence[Port]
    stages: Sequence[Stage]
    constants: dict[str, Array]
    layers: Sequence[LayerRow]
    opset: int
    structure: Structure | None


def to_parts(contents: Contents) -> saved.Parts:
    """The parts of a file."""
    arrays: Arrays = {}
    document = {
        "inputs": [_port_document(port) for port in contents.inputs],
        "outputs": [_port_document(port) for port in contents.outputs],
        "stages": [_stage_document(stage, arrays, f"{i}.") for i, stage in enumerate(contents.stages)],
        "constants": [[name, encode(array, arrays, f"constant.{i}", {})] for i, (name, array) in enumerate(contents.constants.items())],
        "layers": [list(dataclasses.astuple(row)) for row in contents.layers],
        "opset": contents.opset,
    }
    if contents.structure is not None:
        document["results"] = contents.structure.document()
    return saved.to_parts(KIND, document, arrays)


def from_file(source: saved.Source, *, tune: bool, limits: Limits) -> Contents:
    """What `to_parts` made of a network, from a file or its bytes. Nothing in it is executed.

    tune: as for `ulp.nn.load`. limits: what float operators may make; activations of a plan may take limits.tensor_bytes.
    Raises ValueError, saying what is wrong, where the file is no saved network or damaged, and OSError where it cannot be read.
    """
    return _contents(*saved.parsed(source, KIND), tune, limits)


def _contents(document: dict[str, Any], arrays: Arrays, tune: bool, limits: Limits) -> Contents:
    results = document.pop("results", None)
    known = members(document, "a network", inputs=list, outputs=list, stages=list, constants=list, layers=list, opset=int)
    decode = Decoder(arrays, limits.tensor_bytes)
    constants = {}
    for pair in known["constants"]:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError("a constant is a name and an array")
        array = decode(pair[1])
        if not isinstance(array, np.ndarray):
            raise ValueError(f"the constant {pair[0]!r} is no array")
        array.flags.writeable = False
        constants[pair[0]] = array
    inputs, outputs = ([_port(port) for port in known[name]] for name in ("inputs", "outputs"))
    alone = len(known["stages"]) == 1
    stages = [_stage(stage, arrays, decode, tune, limits, alone) for stage in known["stages"]]
    _check_names(inputs, outputs, stages, constants)
    structure = None if results is None else Structure.from_document(results, len(outputs))
    return Contents(inputs, outputs, stages, constants, [_layer(row) for row in known["layers"]], known["opset"], structure)


def _check_names(inputs: list[Port], outputs: list[Port], stages: list[Stage], constants: Mapping[str, Array]) -> None:
    """ValueError where a stage reads a tensor that nothing before it makes."""
    made = {*constants, *(port.name for port in inputs)}
    for stage in stages:
        unknown = [name for name in stage.reads if name not in made]
        if unknown:
            raise ValueError(f"a stage reads {unknown[0]!r}, which nothing before it makes")
        made.update(stage.makes)
    for port in outputs:
        if port.name not in made:
            raise ValueError(f"nothing makes the output {port.name!r}")


def _port_document(port: Port) -> list[Any]:
    return [port.name, port.dtype.str, None if port.shape is None else list(port.shape)]


def _port(port: object) -> Port:
    if not isinstance(port, list) or len(port) != 3 or not isinstance(port[0], str) or not isinstance(port[1], str):
        raise ValueError(f"{port!r} is no input or output")
    name, dtype, shape = port
    if dtype[:1] not in ("<", "|") or (dtype[1:2] not in ("f", "i", "u", "b") and dtype != "|O"):
        raise ValueError(f"{name!r} has dtype {dtype!r}")
    sides_known = shape is None or (isinstance(shape, list) and all(side is None or type(side) in (int, str) for side in shape))
    try:
        kind: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        sides_known = False
    if not sides_known:
        raise ValueError(f"{name!r} has dtype {dtype!r} and shape {shape!r}")
    return Port(name, kind, None if shape is None else tuple(shape))


def _stage_document(stage: Stage, arrays: dict[str, npt.NDArray[Any]], prefix: str) -> dict[str, Any]:
    if isinstance(stage, IntegerStage):
        source = stage.sources[0] if len(stage.sources) == 1 else list(stage.sources)
        written = {"source": source, "results": list(stage.results), "compiled": stage.compiled.document(arrays, prefix)}
        if stage.codes:
            written["codes"] = {name: [codes.dtype.str, codes.low] for name, codes in stage.codes.items()}
        return written
    if isinstance(stage, IslandStage):
        session = stage.session
        model = encode(np.frombuffer(session.model, np.uint8), arrays, f"{prefix}island", {})
        return {"reads": list(stage.reads), "makes": list(stage.makes), "island": model, "name": session.what, "folds": session.folds}
    node = stage.node
    return {
        "op_type": node.op_type,
        "name": node.name,
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "attributes": [[key, encode(value, arrays, f"{prefix}{key}", {})] for key, value in node.attributes.items()],
        "domain": node.domain,
        "reason": stage.reason,
    }


def _stage(document: object, arrays: Arrays, decode: Decoder, tune: bool, limits: Limits, alone: bool) -> Stage:
    if isinstance(document, dict) and "compiled" in document:
        codes = document.pop("codes", {})
        known = members(document, "a stage of integers", source=None, results=list, compiled=dict)
        sources = _texts(known["source"] if isinstance(known["source"], list) else [known["source"]])
        kind = OpenNetwork if "max_length" in known["compiled"] else CompiledNetwork
        compiled = kind.from_document(known["compiled"], arrays, tune=tune, max_bytes=limits.tensor_bytes)
        if len(compiled.output_shapes) != len(known["results"]):
            raise ValueError(f"{len(known['results'])} names for {len(compiled.output_shapes)} results")
        if len(compiled.input_shapes) != len(sources):
            raise ValueError(f"{len(sources)} names for {len(compiled.input_shapes)} inputs")
        results = _texts(known["results"])
        return IntegerStage(sources, results, compiled, _codes(codes, sources, results, compiled))
    if isinstance(document, dict) and "island" in document:
        return _island(members(document, "an island", reads=list, makes=list, island=None, name=str, folds=bool), decode, limits, alone)
    known = members(
        document, "a stage of floats", op_type=str, name=str, inputs=list, outputs=list, attributes=list, domain=str, reason=str
    )
    attributes = {}
    for pair in known["attributes"]:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError("an attribute is a name and a value")
        value = decode(pair[1])
        if isinstance(value, dict) or value is None:
            raise ValueError(f"the attribute {pair[0]!r} has no value")
        attributes[pair[0]] = tuple(value) if isinstance(value, list) else value
    node = Node(known["op_type"], known["name"], _texts(known["inputs"]), _texts(known["outputs"]), attributes, known["domain"])
    return FloatStage(node, known["reason"])


def _codes(document: object, sources: Sequence[str], results: Sequence[str], compiled: CompiledNetwork) -> dict[str, Codes]:
    """How integers at a plan's ends become codes. ValueError unless that is said of all ends that are codes, and of no others."""
    if not isinstance(document, dict):
        raise ValueError("the integers of a stage are no object")
    found = {}
    for name, value in document.items():
        known = isinstance(value, list) and len(value) == 2 and value[0] in ("|u1", "|i1") and type(value[1]) is int
        if not known or not -128 <= value[1] <= 255:
            raise ValueError(f"{name!r} has integers {value!r}: expected '|u1' or '|i1', and what is added to codes")
        found[name] = Codes(np.dtype(value[0]), value[1])
    ends = {*(sources[i] for i in compiled.codes_in), *(results[i] for i in compiled.codes_out)}
    if ends != found.keys():
        raise ValueError(f"it has integers at {sorted(found)}, and its plan codes at {sorted(ends)}")
    return found


def _island(known: dict[str, Any], decode: Decoder, limits: Limits, alone: bool) -> IslandStage:
    data = decode(known["island"])
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError("the model of an island is no array of bytes")
    model = data.tobytes()
    check_wire(model, "Model", limits)
    session = Session(model, known["name"], folds=known["folds"], alone=alone)
    reads, makes = _texts(known["reads"]), _texts(known["makes"])
    if (len(reads), len(makes)) != session.counts:
        raise ValueError(f"an island has {len(reads)} and {len(makes)} names of tensors, and its model {session.counts}")
    return IslandStage(reads, makes, session)


def _texts(values: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} are no names")
    return tuple(values)


def _layer(row: object) -> LayerRow:
    kinds = [str, str, bool, str, list, list, int]
    if not isinstance(row, list) or [type(value) for value in row] != kinds:
        raise ValueError(f"{row!r} is no row of the table of layers")
    name, op_type, integer, reason, bits, shape, nbytes = row
    if not all(type(value) is int for value in (*bits, *shape)) or len(bits) != 2:
        raise ValueError(f"{row!r} is no row of the table of layers")
    return LayerRow(name, op_type, integer, reason, (bits[0], bits[1]), tuple(shape), nbytes)
