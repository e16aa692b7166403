"""The saved form of a compiled network: one flat file that a few milliseconds turn into a network again, on any CPU.

The file is in the safetensors format (ulp/_tensorfile.py). Its metadata are

    format    "ulp-network"
    version   "1"; a later one is refused
    kind      what is in it: "CompiledNetwork", "OpenNetwork" (open_length.py), or "OnnxNetwork" (ulp/onnx)
    network   JSON: what the plans were asked for (script.py), the names of their steps, shapes, and how results are handed out

and its arrays are packed weights, b bits each, and what the epilogues need: scales, biases, thresholds, windows.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TypeAlias

from ulp import _tensorfile
from ulp._files import read_file, replace_file

from .lower import Label, Lowered, new_plan
from .quantizer import Quantizer
from .script import Arrays, replay

FORMAT = "ulp-network"
VERSION = 1
_READERS = {"CompiledNetwork": "ulp.nn.load", "OpenNetwork": "ulp.nn.open_length.load", "OnnxNetwork": "ulp.load"}
MAX_BYTES = 2**32
"""What the activations of a loaded network may take, unless the caller says otherwise."""

Parts: TypeAlias = "list[bytes | memoryview]"
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview"


def is_saved(source: object) -> bool:
    """Whether a file, or bytes, begin as a saved network does: with a length below 2^40, then a brace."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        head = bytes(memoryview(source).cast("B")[:9])
    elif isinstance(source, (str, os.PathLike)):
        if not Path(source).is_file():  # a pipe would wait for its writer
            return False
        with Path(source).open("rb") as file:
            head = file.read(9)
    else:
        return False
    return head[5:] == b"\0\0\0{"


def to_parts(kind: str, document: dict[str, Any], arrays: Arrays) -> Parts:
    """The parts of a file, to be written one after another."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return _tensorfile.write(arrays, {"format": FORMAT, "version": str(VERSION), "kind": kind, "network": text})


def parsed(source: Source, kind: str) -> tuple[dict[str, Any], Arrays]:
    """(document, arrays) of a saved network of this kind; the arrays are views. ValueError for whatever is none."""
    arrays, metadata = _tensorfile.read(_contents(source))
    if metadata.get("format") != FORMAT:
        raise ValueError(f"it is a safetensors file, but no saved network: its metadata have no format {FORMAT!r}")
    version = metadata.get("version", "")
    if version != str(VERSION):
        raise ValueError(f"its format has version {version!r}, and this ulp reads version {VERSION}: load it with the ulp that wrote it")
    found = metadata.get("kind", "")
    if found != kind:
        reader = _READERS.get(found)
        raise ValueError(f"it holds a network of kind {found!r}, not {kind!r}" + (f": read it with {reader}" if reader else ""))
    document = _tensorfile.parse_json(metadata.get("network", ""), "its description of the network")
    if not isinstance(document, dict):
        raise ValueError("its description of the network is no object")
    return document, arrays


def write_file(path: str | os.PathLike[str], parts: Parts) -> None:
    """Write the parts beside `path`, then put them in its place: nobody ever sees half a file."""
    replace_file(Path(path), lambda file: file.writelines(parts))


def name_of(source: Source) -> str:
    """What messages call it."""
    return "the bytes" if isinstance(source, (bytes, bytearray, memoryview)) else str(os.fspath(source))


def _contents(source: Source) -> memoryview:
    """The bytes of a file, or of what is in memory."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return memoryview(source).cast("B")
    return memoryview(read_file(Path(source)))


# Parts of documents.


def lowered_document(lowered: Lowered, arrays: Arrays, prefix: str = "", like: Lowered | None = None) -> dict[str, Any]:
    """A plan with its names and shapes as JSON has it; arrays get names that begin with `prefix`.

    like: one with the same steps that is stored, too: what both have is stored once.
    """
    script = lowered.script
    return {
        "plan": script.document(arrays, prefix) if like is None else script.document_beside(like.script, arrays, prefix),
        "labels": [[label.name, label.kind, label.w_bits] for label in lowered.labels],
        "input_shape": _input_shapes_document(lowered.input_shapes),
        "output_shapes": [list(shape) for shape in lowered.output_shapes],
        "input_quantizer": None if lowered.input_quantizer is None else _quantizer_document(lowered.input_quantizer),
    }


def lowered_from(document: object, arrays: Arrays, *, tune: bool, max_bytes: int, like: Lowered | None = None) -> Lowered:
    """What `lowered_document` described, on a plan of this CPU. ValueError where that is damaged."""
    beside = None if like is None else like.script
    known = members(document, "a lowered network", plan=dict, labels=list, input_shape=list, output_shapes=list, input_quantizer=None)
    script = replay(known["plan"], arrays, new_plan, tune=False, max_bytes=max_bytes, like=beside)
    if tune:  # now that it is known to be a plan of a size that may run
        script = replay(known["plan"], arrays, new_plan, tune=True, max_bytes=max_bytes, like=beside)
    steps = script.plan.steps()
    labels = [_label(label) for label in known["labels"]]
    if len(labels) != len(steps):
        raise ValueError(f"{len(labels)} labels for {len(steps)} steps")
    shapes = [_shape(shape) for shape in known["output_shapes"]]
    found = [step["out_shape"] for step in steps if step["kind"] == "output"]
    if len(shapes) != len(found):
        raise ValueError(f"{len(shapes)} output shapes for {len(found)} outputs")
    several = known["input_shape"] and isinstance(known["input_shape"][0], list)
    inputs = [_shape(shape) for shape in known["input_shape"]] if several else [_shape(known["input_shape"])]
    if len(inputs) != sum(step["kind"].startswith("input") for step in steps):
        raise ValueError(f"{len(inputs)} input shapes for a plan of other inputs")
    quantizer = known["input_quantizer"]
    lowered = Lowered(script, labels, inputs, shapes, None if quantizer is None else _quantizer_from(quantizer))
    for shape, port in zip((*inputs, *shapes), lowered.ports, strict=True):
        if math.prod(shape) != math.prod(port):
            raise ValueError(f"shape {shape} for an image of {' x '.join(map(str, port))}")
    for shape, port in zip(inputs, lowered.ports, strict=False):
        if len(shape) == 1 and port[0] != shape[0]:
            raise ValueError(f"an input of shape {shape} for an image of several pixels")
    return lowered


def _input_shapes_document(shapes: list[tuple[int, ...]]) -> list[Any]:
    """The shape of an only input, or a list of shapes."""
    return [list(shape) for shape in shapes] if len(shapes) > 1 else list(shapes[0])


def members(document: object, what: str, **types: type | None) -> dict[str, Any]:
    """The members of an object, of these types (None: any). ValueError where one is missing, of another type, or unknown."""
    if not isinstance(document, dict) or document.keys() != types.keys():
        raise ValueError(f"{what} is an object of {', '.join(types)}")
    for name, expected in types.items():
        if expected is not None and type(document[name]) is not expected:
            raise ValueError(f"{name} of {what} is {type(document[name]).__name__}, expected {expected.__name__}")
    return document


def _shape(sides: object) -> tuple[int, ...]:
    if not isinstance(sides, list) or not 1 <= len(sides) <= 8 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"{sides!r} is no shape of an image, one to eight positive integers")
    return tuple(sides)


def _label(label: object) -> Label:
    if not isinstance(label, list) or [type(item) for item in label] != [str, str, int]:
        raise ValueError(f"{label!r} is no label: name, kind, bits of weights")
    return Label(*label)


def _quantizer_document(quantizer: Quantizer) -> dict[str, Any]:
    return {name: getattr(quantizer, name) for name in ("bits", "scale", "zero", "bipolar")}


def _quantizer_from(document: object) -> Quantizer:
    if not isinstance(document, dict):
        raise ValueError(f"{document!r} is no quantizer")
    try:
        return Quantizer(**document)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{document!r} is no quantizer: {error}") from None
