"""A look at a protobuf before it is parsed: empty messages take two bytes in a file, and a hundred times that once they are objects."""

from __future__ import annotations

from typing import Any

from .limits import Limits
from .model import OnnxError

# As deep as protobuf's own parser goes.
_DEEPEST = 100

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_wire(data: bytes, descriptor: Any, limits: Limits) -> None:
    """OnnxError unless `data` is a message of `descriptor` that is complete and within limits.fields and limits.constant_bytes."""
    fields = unpacked = position = 0
    open_messages = [(descriptor, len(data))]
    while open_messages:
        message, end = open_messages[-1]
        if position == end:
            open_messages.pop()
            continue
        fields += 1
        if fields > limits.fields:
            raise OnnxError(f"the file has more fields than the limit fields={limits.fields}")
        tag, position = _varint(data, position, end)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(data, position, end)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, position = _varint(data, position, end)
            field = message.fields_by_number.get(tag >> 3)
            if length > end - position:
                raise OnnxError(f"the file is damaged or cut off: byte {position} begins {length} bytes, but {end - position} follow")
            if field is not None and field.message_type is not None:
                if len(open_messages) >= _DEEPEST:
                    raise OnnxError(f"messages lie in each other more than {_DEEPEST} deep")
                open_messages.append((field.message_type, position + length))
                continue
            if field is not None and field.type == field.TYPE_STRING:
                _check_text(data[position : position + length], position)
            elif field is not None and field.type != field.TYPE_BYTES:
                unpacked += 8 * length  # numbers of one byte and more, which become up to eight
                if unpacked > limits.constant_bytes:
                    raise OnnxError(f"the file's lists of numbers take more than the limit constant_bytes={limits.constant_bytes}")
            position += length
        else:
            raise OnnxError(f"this is no ONNX file: byte {position} belongs to no field that protobuf knows")
        if position > end:
            raise OnnxError(f"the file is damaged or cut off at byte {end}")


def _check_text(text: bytes, position: int) -> None:
    # Protobuf hands out bytes where text is none, and nobody expects them.
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise OnnxError(f"the file is damaged: the text at byte {position} is no UTF-8") from error


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise OnnxError(f"the file is damaged or cut off at byte {position}")
