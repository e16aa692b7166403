"""Large raw data of a file's constants, left where the file was read: protobuf would copy it twice, into a message and out of it."""

from __future__ import annotations

import secrets

from .limits import Limits
from .model import OnnxError, Payloads
from .wire import field_spans

# Where constants lie: of each message the fields that hold others, and of a tensor its raw data.
_INSIDE = {
    "Model": {7: "Graph"},
    "Graph": {1: "Node", 5: "Tensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor"},
    "Tensor": {9: ""},
}
_FUNCTIONS = 25
# Smaller data may as well be copied.
_SMALLEST = 2**16


def split(data: memoryview, limits: Limits) -> tuple[bytes, Payloads]:
    """(the file with a key in place of large raw data of constants, this data by its keys)

    A file that is damaged or has functions comes back as it is, to be checked by those who look at all of it.
    """
    payloads: Payloads = {}
    try:
        return b"".join(_pieces(data, "Model", payloads, limits.fields)), payloads
    except OnnxError:
        return bytes(data), {}


def _pieces(message: memoryview, kind: str, payloads: Payloads, fields: int) -> list[bytes | memoryview]:
    """A message in pieces, with keys in place of large data."""
    pieces: list[bytes | memoryview] = []
    at = 0
    for number, start, begin, end in field_spans(message, fields):
        if kind == "Model" and number == _FUNCTIONS:
            raise OnnxError("functions are copied when they are written out")
        inside = _INSIDE[kind].get(number)
        if inside is None or end - begin < _SMALLEST:
            continue
        if inside:
            made = _pieces(message[begin:end], inside, payloads, fields)
        else:
            key = secrets.token_bytes(16)  # which no file can hold
            payloads[key] = message[begin:end]
            made = [key]
        pieces += [message[at:start], _varint(number << 3 | 2), _varint(sum(map(len, made))), *made]
        at = end
    return [*pieces, message[at:]]


def _varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])
