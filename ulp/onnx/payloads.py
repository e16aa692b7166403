"""Large raw data of a file's initializers, left where the file was read: protobuf would copy it twice, into a message and out of it."""

from __future__ import annotations

from collections.abc import Iterator

from .limits import Limits
from .model import OnnxError
from .wire import field_spans

# The numbers of fields: of ModelProto its graph and its functions, of GraphProto its initializers, of TensorProto their raw data.
_GRAPH, _FUNCTIONS, _INITIALIZER, _RAW_DATA = 7, 25, 5, 9
# Smaller data may as well be copied.
_SMALLEST = 2**16


def split(data: memoryview, limits: Limits) -> tuple[bytes, dict[int, memoryview]]:
    """(the file without the large raw data of initializers of its graph, this data by their numbers)

    A file that is damaged, has functions, or says anything twice comes back as it is.
    """
    try:
        found = _found(data, limits.fields)
    except OnnxError:
        found = None
    if found is None:
        return bytes(data), {}
    graph, cuts = found
    payloads, pieces, at = {}, [], graph[1]
    for number, tensor, raw in cuts:
        left = tensor[2] - tensor[1] - (raw[2] - raw[0])
        pieces += [data[at : tensor[0]], _tag(_INITIALIZER), _varint(left), data[tensor[1] : raw[0]], data[raw[2] : tensor[2]]]
        payloads[number] = data[raw[1] : raw[2]]
        at = tensor[2]
    pieces.append(data[at : graph[2]])
    size = sum(len(piece) for piece in pieces)
    return b"".join([data[: graph[0]], _tag(_GRAPH), _varint(size), *pieces, data[graph[2] :]]), payloads


# Of a field its tag's position, and where its content begins and ends.
_Span = tuple[int, int, int]


def _found(data: memoryview, fields: int) -> tuple[_Span, list[tuple[int, _Span, _Span]]] | None:
    """(the graph, of each initializer with large data its number, itself and the data); None where there is none, or anything unusual."""
    graphs = []
    for number, *span in field_spans(data, 0, len(data), fields):
        if number == _FUNCTIONS:
            return None
        if number == _GRAPH:
            graphs.append((span[0], span[1], span[2]))
    if len(graphs) != 1:
        return None
    cuts = []
    for i, tensor in enumerate(_of(data, graphs[0], _INITIALIZER, fields)):
        if tensor[2] - tensor[1] >= _SMALLEST:
            raw = list(_of(data, tensor, _RAW_DATA, fields))
            if len(raw) > 1:
                return None
            cuts += [(i, tensor, span) for span in raw if span[2] - span[1] >= _SMALLEST]
    return (graphs[0], cuts) if cuts else None


def _of(data: memoryview, message: _Span, wanted: int, fields: int) -> Iterator[_Span]:
    return ((start, begin, end) for number, start, begin, end in field_spans(data, message[1], message[2], fields) if number == wanted)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])
