"""PackedMatrix: size, equality, immutability, pickling, files, and files made to do harm."""

from __future__ import annotations

import copy
import importlib
import io
import itertools
import json
import os
import pickle
import random
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreter import output_of
from reference import assert_exact, dtype, random_matrix

import ulp

SUFFIXES = (".npz", ".safetensors")


def example(bits: int = 3, signed: bool = True, shape: tuple[int, int] = (45, 19)) -> ulp.PackedMatrix:
    return ulp.pack(random_matrix(np.random.default_rng([bits, signed, *shape]), shape, bits, signed), bits)


@pytest.mark.parametrize(("bits", "signed"), list(itertools.product(range(1, 9), (False, True))))
def test_values_attributes_and_size(bits: int, signed: bool) -> None:
    for shape in ((0, 0), (0, 5), (5, 0), (1, 1), (31, 7), (32, 8), (33, 9), (100, 100), (257, 65)):
        values = random_matrix(np.random.default_rng(shape), shape, bits, signed)
        w = ulp.pack(values, bits)
        assert_exact(w.unpack(), values, f"{shape} {bits} {signed}")
        assert w.unpack().dtype == w.dtype == dtype(signed)
        assert (w.shape, w.ndim, w.bits, w.signed) == (shape, 2, bits, signed)
        padded = -(-shape[0] // 32) * 32 * (-(-shape[1] // 8) * 8)
        assert w.nbytes == padded * bits // 8


@pytest.mark.parametrize("bits", range(1, 9))
def test_memory_is_bits_over_eight(bits: int) -> None:
    for shape in ((512, 512), (300, 300), (1000, 129), (4096, 100)):
        w = example(bits, bits > 1, shape)
        assert w.nbytes <= 1.15 * bits / 8 * shape[0] * shape[1]


def test_repr() -> None:
    assert repr(example()) == "PackedMatrix(shape=(45, 19), bits=3, signed, nbytes=576)"
    assert "unsigned" in repr(example(4, False))


def test_immutable() -> None:
    w = example()
    for name in ("bits", "shape", "_bits", "_packed", "new"):
        with pytest.raises(AttributeError):
            setattr(w, name, 1)
    with pytest.raises(AttributeError):
        del w._bits
    with pytest.raises(ValueError, match="read-only"):
        w._packed.data[0] = 1
    w.unpack()[...] = 0
    assert w == example()


def test_not_made_by_hand() -> None:
    made: Any = ulp.PackedMatrix
    with pytest.raises(TypeError, match=r"ulp\.pack"):
        made(np.zeros((2, 2), dtype=np.uint8))


def test_equality_and_hash() -> None:
    w = example()
    assert w == example()
    assert hash(w) == hash(example())
    values = w.unpack()
    values[44, 18] = -values[44, 18] if values[44, 18] not in (0, -4) else 1
    others = [ulp.pack(values, 3), ulp.pack(w.unpack(), 4), example(3, False), example(3, True, (19, 45))]
    for other in others:
        assert w != other
    assert len({w, example(), *others}) == 5
    assert w != "w"


def test_numpy_unpacks() -> None:
    w = example()
    assert_exact(np.asarray(w), w.unpack(), "asarray")
    assert np.asarray(w).dtype == w.dtype
    assert_exact(np.array(w, dtype=np.float32), w.unpack(), "array")
    assert np.array(w, dtype=np.float32).dtype == np.float32
    assert_exact(np.matmul(np.ones((2, 45), np.int64), w), np.ones((2, 45), np.int64) @ w.unpack(), "matmul")
    assert ulp.pack(w, 3) == w
    with pytest.raises(ValueError, match="copy=False"):
        w.__array__(copy=False)
    with pytest.raises(TypeError, match="only b can be packed"):
        ulp.gemm(w, w)


def test_data_outlive_the_matrix() -> None:
    w = example()
    data = w._packed.data
    kept = data.copy()
    del w
    junk = [example() for _ in range(50)]
    assert np.array_equal(data, kept)
    del junk


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("bits", "signed"), [(1, False), (1, True), (3, True), (5, False), (8, True)])
def test_pickle(bits: int, signed: bool, protocol: int) -> None:
    for shape in ((0, 3), (40, 21)):
        w = example(bits, signed, shape)
        again = pickle.loads(pickle.dumps(w, protocol=protocol))
        assert again == w
        assert (again.dtype, again.shape) == (w.dtype, w.shape)
        assert_exact(again.unpack(), w.unpack(), "pickled")


def test_functions_that_pickles_name_stay_where_they_were() -> None:
    """A pickle holds the module and name of the function that rebuilds it."""
    for module, name in (("ulp.packed", "_rebuild"), ("ulp._gpu.packed", "move")):
        assert callable(getattr(importlib.import_module(module), name))


def test_pickle_out_of_band() -> None:
    w = example(4, True, (256, 256))
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(w, protocol=5, buffer_callback=buffers.append)
    assert len(stream) < 1000
    assert pickle.loads(stream, buffers=buffers) == w


def test_copies() -> None:
    w = example()
    assert copy.copy(w) is w
    assert copy.deepcopy([w])[0] is w


def test_to_another_process() -> None:
    w = example(5, True, (100, 30))
    assert output_of(f"import pickle, ulp; print(pickle.loads({pickle.dumps(w)!r}).unpack().tolist())").strip() == str(w.unpack().tolist())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("bits", "signed"), list(itertools.product(range(1, 9), (False, True))))
def test_save_and_load(tmp_path: Path, bits: int, signed: bool, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for shape in ((33, 20), (0, 4), (4, 0), (1, 1)):
        w = example(bits, signed, shape)
        w.save(path)
        again = ulp.PackedMatrix.load(str(path))
        assert again == w
        assert_exact(again.unpack(), w.unpack(), f"{shape}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_saved_npz_is_plain_numpy(tmp_path: Path) -> None:
    w = example(3, True)
    w.save(tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as file:
        assert file["header"].tolist() == [1, 45, 19, 3, 1]
        assert file["data"].size == w.nbytes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_savers_of_one_file_do_not_meet(tmp_path: Path, suffix: str) -> None:
    """Each save succeeds and each load gives a whole matrix."""
    path = tmp_path / f"w{suffix}"
    matrices = [example(bits, True, (64, 64)) for bits in (2, 3, 4, 5)]
    matrices[0].save(path)

    def work(w: ulp.PackedMatrix) -> None:
        for _ in range(40):
            w.save(path)
            assert ulp.PackedMatrix.load(path) in matrices

    with ThreadPoolExecutor(len(matrices)) as pool:
        list(pool.map(work, matrices))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes of POSIX")
def test_save_writes_to_no_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link laid in the place of the new file is an error, one in the place of the target is replaced; permissions are a new file's."""
    victim, path = tmp_path / "victim", tmp_path / "w.npz"
    victim.write_text("precious")
    path.symlink_to(victim)
    mask = os.umask(0o027)
    try:
        example().save(path)
    finally:
        os.umask(mask)
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    monkeypatch.setattr(os, "urandom", bytes)
    beside = tmp_path / f".ulp-{bytes(8).hex()}"
    beside.symlink_to(victim)
    with pytest.raises(FileExistsError):
        example().save(path)
    assert beside.is_symlink()
    assert victim.read_text() == "precious"
    assert ulp.PackedMatrix.load(path) == example()


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    for name in ("w.bin", "w", "w.pt"):
        with pytest.raises(ValueError, match=r"\.npz or \.safetensors"):
            example().save(tmp_path / name)
        with pytest.raises(ValueError, match=r"\.npz or \.safetensors"):
            ulp.PackedMatrix.load(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file_and_missing_directory(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(FileNotFoundError):
        ulp.PackedMatrix.load(tmp_path / f"none{suffix}")
    with pytest.raises(FileNotFoundError, match=r"No such file.*none'$"):
        example().save(tmp_path / "none" / f"w{suffix}")


def test_safetensors_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path = tmp_path / "w.safetensors"
    example().save(path)
    assert ulp.PackedMatrix.load(path) == example()


@pytest.mark.parametrize("shape", [(45, 19), (0, 4), (1, 1)])
def test_files_are_those_of_safetensors(tmp_path: Path, shape: tuple[int, int]) -> None:
    """The package reads what `save` writes, and what the package writes (as `save` did before) is read."""
    numpy = pytest.importorskip("safetensors.numpy")
    w = example(3, True, shape)
    path = tmp_path / "w.safetensors"
    w.save(path)
    with pytest.importorskip("safetensors").safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        data = file.get_tensor("data")
    fields = {"version": "1", "k": str(shape[0]), "n": str(shape[1]), "bits": "3", "signed": "1"}
    checksum = metadata.pop("crc32")
    assert metadata == {"format": "ulp.PackedMatrix", **fields}
    assert np.array_equal(data, w._packed.data)
    for more in ({"crc32": checksum}, {}):  # older files have none
        path.write_bytes(numpy.save({"data": data}, metadata=metadata | more))
        assert ulp.PackedMatrix.load(path) == w
    path.write_bytes(numpy.save({"data": data}, metadata=metadata | {"crc32": "12345678"}))
    with pytest.raises(ValueError, match="damaged: its contents do not have the checksum '12345678'"):
        ulp.PackedMatrix.load(path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_flipped_bit_is_noticed(tmp_path: Path, suffix: str) -> None:
    """Or it means nothing: numbers and spaces of the archive that nobody reads."""
    path = tmp_path / f"w.{suffix}"
    example().save(path)
    good = path.read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = ulp.PackedMatrix.load(path)
        except ValueError:
            continue
        assert loaded == example()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def npy_header(text: str) -> bytes:
    """The start of an .npy file with a header of any text."""
    padded = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def write_npz(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


GOOD_DATA = npy(np.zeros(576, dtype=np.uint8))
HEADERS: dict[str, Any] = {
    "a later version": [2, 45, 19, 3, 1],
    "version 0": [0, 45, 19, 3, 1],
    "a negative shape": [1, -45, 19, 3, 1],
    "two negative dimensions": [1, -32, -8, 3, 1],
    "a huge K": [1, 2**31 - 1, 19, 3, 1],
    "a huge shape": [1, 2**31 - 1, 2**31 - 1, 8, 1],
    "dimensions past 32 bits": [1, 2**40, 2**40, 3, 1],
    "dimensions whose product wraps to the right size": [1, 2**62, 4, 3, 1],
    "a huge N without rows": [1, 0, 2**31 - 1, 3, 1],
    "0 bits": [1, 45, 19, 0, 1],
    "9 bits": [1, 45, 19, 9, 1],
    "a sign of 2": [1, 45, 19, 3, 2],
    "another shape": [1, 45, 27, 3, 1],
    "too few fields": [1, 45, 19, 3],
    "too many fields": [1, 45, 19, 3, 1, 0],
    "no field": [],
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_hostile_header(tmp_path: Path, header: list[int]) -> None:
    path = tmp_path / "w.npz"
    write_npz(path, {"header.npy": npy(np.array(header, dtype=np.int64)), "data.npy": GOOD_DATA})
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"w\.npz is not a saved"):
        ulp.PackedMatrix.load(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_hostile_safetensors_metadata(tmp_path: Path, header: list[int]) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    path = tmp_path / "w.safetensors"
    fields = dict(zip(("version", "k", "n", "bits", "signed"), map(str, header), strict=False))
    if len(header) > 5:
        fields["k"] += "."
    save_file({"data": np.zeros(576, dtype=np.uint8)}, path, metadata={"format": "ulp.PackedMatrix", **fields})
    with pytest.raises(ValueError, match=r"w\.safetensors is not a saved"):
        ulp.PackedMatrix.load(path)


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


GOOD_HEADER = npy(np.array([1, 45, 19, 3, 1], dtype=np.int64))
MEMBERS: dict[str, dict[str, bytes]] = {
    "no member": {},
    "no data": {"header.npy": GOOD_HEADER},
    "no header": {"data.npy": GOOD_DATA},
    "one member too many": {"header.npy": GOOD_HEADER, "data.npy": GOOD_DATA, "more.npy": GOOD_DATA},
    "a path outside": {"../header.npy": GOOD_HEADER, "data.npy": GOOD_DATA},
    "truncated data": {"header.npy": GOOD_HEADER, "data.npy": GOOD_DATA[:-1]},
    "bytes after the data": {"header.npy": GOOD_HEADER, "data.npy": GOOD_DATA + b"\0"},
    "signed data": {"header.npy": GOOD_HEADER, "data.npy": npy(np.zeros(576, dtype=np.int8))},
    "wide data": {"header.npy": GOOD_HEADER, "data.npy": npy(np.zeros(576, dtype=np.int32))},
    "data in two dimensions": {"header.npy": GOOD_HEADER, "data.npy": npy(np.zeros((2, 288), dtype=np.uint8))},
    "a float header": {"header.npy": npy(np.array([1.0, 45, 19, 3, 1])), "data.npy": GOOD_DATA},
    "a scalar header": {"header.npy": npy(np.int64(1)), "data.npy": GOOD_DATA},
    "a big-endian header": {"header.npy": npy(np.array([1, 45, 19, 3, 1], dtype=">i8")), "data.npy": GOOD_DATA},
    "no arrays": {"header.npy": b"", "data.npy": b"\x93NUMPY"},
    "an unfinished header": {"header.npy": GOOD_HEADER, "data.npy": GOOD_DATA[:40]},
    "an expression": {"header.npy": GOOD_HEADER, "data.npy": npy_header("__import__('os').abort()")},
    "a declared petabyte": {
        "header.npy": GOOD_HEADER,
        "data.npy": npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (1125899906842624,), }"),
    },
    "a declared size past 64 bits": {
        "header.npy": GOOD_HEADER,
        "data.npy": npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999999,), }"),
    },
    "a negative size": {"header.npy": GOOD_HEADER, "data.npy": npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-576,), }")},
}


@pytest.mark.parametrize("members", MEMBERS.values(), ids=MEMBERS.keys())
def test_hostile_members(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "w.npz"
    write_npz(path, members)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"w\.npz is not a saved"):
        ulp.PackedMatrix.load(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_pickled_members_are_not_executed(tmp_path: Path) -> None:
    path, trace = tmp_path / "w.npz", tmp_path / "executed"
    write_npz(path, {"header.npy": GOOD_HEADER, "data.npy": npy(np.array([Bomb(trace)], dtype=object))})
    with pytest.raises(ValueError, match="not a saved"):
        ulp.PackedMatrix.load(path)
    assert not trace.exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(tmp_path: Path, compression: int) -> None:
    """A small file cannot unfold into a large one."""
    path = tmp_path / "w.npz"
    write_npz(path, {"header.npy": GOOD_HEADER, "data.npy": npy(np.zeros(1 << 26, dtype=np.uint8))}, compression)
    with pytest.raises(ValueError, match="compressed"):
        ulp.PackedMatrix.load(path)


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1])
def test_an_offset_past_all_files_is_refused(tmp_path: Path, offset: int) -> None:
    """zipfile raises an OverflowError where an entry's zip64 field says that it begins at such an offset."""
    path = tmp_path / "w.npz"
    write_npz(path, {"header.npy": GOOD_HEADER, "data.npy": GOOD_DATA})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    name = int.from_bytes(content[entry + 28 : entry + 30], "little")
    extra = (1).to_bytes(2, "little") + (8).to_bytes(2, "little") + offset.to_bytes(8, "little")
    content[entry + 42 : entry + 46] = b"\xff" * 4
    content[entry + 30 : entry + 32] = len(extra).to_bytes(2, "little")
    content[entry + 46 + name : entry + 46 + name] = extra
    end = content.rindex(b"PK\x05\x06")
    size = int.from_bytes(content[end + 12 : end + 16], "little") + len(extra)
    content[end + 12 : end + 16] = size.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a saved"):
        ulp.PackedMatrix.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a regular file"):
        ulp.PackedMatrix.load(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
        example().save(whole)
        content = whole.read_bytes()
        for length in {*range(0, len(content), 37), len(content) - 1, 1, 8}:
            cut.write_bytes(content[:length])
            with pytest.raises(ValueError, match="not a saved"):
                ulp.PackedMatrix.load(cut)


def test_flipped_bytes_load_or_are_refused(tmp_path: Path) -> None:
    """Any single damaged byte gives a matrix of the right shape or a ValueError; never a crash or another exception."""
    for suffix in SUFFIXES:
        path = tmp_path / f"w{suffix}"
        w = example(3, True, (5, 3))
        w.save(path)
        content = path.read_bytes()
        damaged = bytearray(content)
        for position in range(len(content)):
            damaged[position] ^= 0x15
            path.write_bytes(damaged)
            damaged[position] = content[position]
            try:
                loaded = ulp.PackedMatrix.load(path)
            except ValueError:
                continue
            ulp.gemm(np.ones((1, loaded.shape[0]), dtype=np.uint8), loaded)


@pytest.mark.parametrize("case", ["two tensors", "another name", "another dtype", "another format", "no metadata", "two dimensions"])
def test_foreign_safetensors(tmp_path: Path, case: str) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    path = tmp_path / "w.safetensors"
    metadata: dict[str, str] | None = {"format": "ulp.PackedMatrix", "version": "1", "k": "45", "n": "19", "bits": "3", "signed": "1"}
    tensors: dict[str, Any] = {"data": np.zeros(576, dtype=np.uint8)}
    match case:
        case "two tensors":
            tensors["more"] = np.zeros(3, dtype=np.uint8)
        case "another name":
            tensors = {"weight": tensors["data"]}
        case "another dtype":
            tensors["data"] = np.zeros(576, dtype=np.int8)
        case "another format":
            metadata = {**(metadata or {}), "format": "pt"}
        case "no metadata":
            metadata = None
        case _:
            tensors["data"] = np.zeros((2, 288), dtype=np.uint8)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="not a saved"):
        ulp.PackedMatrix.load(path)


def test_safetensors_header_that_declares_too_much(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for end in (2**20, 2**50, 2**63):
        header = json.dumps({"data": {"dtype": "U8", "shape": [end], "data_offsets": [0, end]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(576))
        with pytest.raises(ValueError, match="not a saved"):
            ulp.PackedMatrix.load(path)


def test_hostile_pickle_fields() -> None:
    """A pickle is code and never safe from strangers; a damaged one must still not crash the process."""
    rebuild, (header, data) = example().__reduce__()
    assert rebuild(header, data) == example()
    for bad in ((1, 45, 19, 3), "12345", (1, 45, 19, 3.0, 1), (1, None, 19, 3, 1), (True, 45, 19, 3, 1), None):
        with pytest.raises(ValueError, match="expected"):
            rebuild(bad, data)
    for bad_data in (data[:-1], data.astype(np.int32), data.reshape(2, -1), data.tobytes(), None):
        with pytest.raises(ValueError, match="data"):
            rebuild(header, bad_data)
    assert rebuild(header, np.repeat(data, 2)[::2]) == example()


def test_padding_of_foreign_bytes_is_ignored() -> None:
    """Bits beyond K and N may hold anything: results and equality do not see them."""
    w = example(3, True, (5, 3))
    rebuild, (header, data) = w.__reduce__()
    noisy = rebuild(header, data | np.uint8(0xFF))
    assert noisy.shape == w.shape
    ones = ulp.pack(np.full((5, 3), 3, dtype=np.int8), 3)
    assert noisy == ones
    assert_exact(ulp.gemm(np.ones((2, 5), dtype=np.uint8), noisy), np.full((2, 3), 15), "padding")
