"""Compiled networks in files: what is loaded computes the same bits, and no damage to a file does more than raise a ValueError."""

import copy
import json
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nn_formulas import Net, images

import ulp
from ulp import _core, _tensorfile, nn
from ulp.nn import saved


def _residual() -> tuple[nn.Module, tuple[int, ...]]:
    def forward(net: Any, x: Any) -> Any:
        x = net.pool(net.relu(net.norm(net.first(x))))
        y = net.relu(net.add(net.second(x), x))
        return net.last(net.flatten(net.mean(net.concat(net.wise(y), net.grouped(y)))))

    net = Net(
        forward,
        first=nn.Conv2d(3, 16, 5, 2, 2, bits=8),
        norm=nn.BatchNorm2d(16),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(3, 2, 1),
        second=nn.Conv2d(16, 16, 3, padding=1, bits=3),
        add=nn.Add(),
        wise=nn.Conv2d(16, 16, 3, padding=1, groups=16, bits=4),
        grouped=nn.Conv2d(16, 12, 1, groups=4, bits=2, bias=False),
        concat=nn.Concat(1),
        mean=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),
        last=nn.Linear(28, 10, bits=5),
    )
    return net, (3, 21, 18)


def _binary() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(40, 33, bits=1, act_bits=2), nn.ReLU(), nn.Linear(33, 5, bits=7)), (40,)


def _padded() -> tuple[nn.Module, tuple[int, ...]]:
    conv = nn.Conv2d(5, 9, 3, padding=2, padding_mode="reflect", bits=6)
    return nn.Sequential(conv, nn.ReLU6(), nn.AvgPool2d(2), nn.Conv2d(9, 4, 3, bits=3), nn.Flatten(1)), (5, 11, 9)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {"residual": _residual, "binary": _binary, "padded": _padded}


def _calibrated(name: str) -> tuple[nn.Module, Any]:
    nn.manual_seed(0)
    network, shape = NETWORKS[name]()
    x = images(np.random.default_rng(1), 3, *shape)
    return network.calibrate([x]), x


def _saved(network: nn.CompiledNetwork, tmp_path: Path) -> bytes:
    network.save(tmp_path / "network.ulp")
    return (tmp_path / "network.ulp").read_bytes()


@pytest.fixture
def any_isa() -> Iterator[None]:
    before = ulp.get_isa()
    yield
    ulp.set_isa(before)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", ["fp32", "threshold"])
def test_what_is_loaded_computes_the_same_bits(name: str, mode: Any, tmp_path: Path) -> None:
    network, x = _calibrated(name)
    compiled = nn.compile(network, x, mode=mode, hint="throughput", group=2)
    path = tmp_path / "network.ulp"
    compiled.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.ulp"]
    loaded = nn.load(path)
    assert np.array_equal(loaded(x), compiled(x))
    assert str(loaded) == str(compiled)
    assert loaded.input_quantizer == compiled.input_quantizer
    assert _saved(loaded, tmp_path) == _saved(compiled, tmp_path)
    for same in (nn.load(str(path), tune=True), nn.load(bytearray(path.read_bytes())), pickle.loads(pickle.dumps(compiled))):
        assert np.array_equal(same(x), compiled(x))
    assert np.array_equal(copy.deepcopy(compiled)(x), compiled(x))
    assert np.array_equal(loaded.profile(x).rows[-1].shape, compiled.profile(x).rows[-1].shape)


class _LimitedMeanwhile:
    """A plan; before it is finished, another thread limits the instruction set."""

    def __init__(self) -> None:
        self._plan = _core.Plan()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    def finalize(self, *args: Any) -> None:
        ulp.set_isa("baseline")
        self._plan.finalize(*args)


@pytest.mark.usefixtures("any_isa")
def test_the_isa_is_limited_while_a_file_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = _calibrated("residual")
    compiled = nn.compile(network, x, tune=False)
    data = _saved(compiled, tmp_path)
    monkeypatch.setattr(saved, "new_plan", _LimitedMeanwhile)
    loaded = nn.load(data)
    assert np.array_equal(loaded(x), compiled(x))


@pytest.mark.usefixtures("any_isa")
def test_a_file_of_one_isa_loads_under_another(tmp_path: Path) -> None:
    network, x = _calibrated("residual")
    compiled = nn.compile(network, x)
    compiled.save(tmp_path / "network.ulp")
    expected = compiled(x)
    for isa in ulp.available_isas():
        ulp.set_isa(isa)
        loaded = nn.load(tmp_path / "network.ulp")
        assert np.array_equal(loaded(x), expected)
        methods = [row.method for row in loaded.profile(x) if row.step == "conv"]
        kernels = {kernel.name: kernel.isa for kernel in ulp.kernels()}
        assert all(kernels.get(method, isa) in ulp.available_isas() for method in methods)


def test_codes_and_structures(tmp_path: Path) -> None:
    network = Net(
        lambda net, x: {"codes": net.end(net.conv(x)), "more": net.end(net.other(x))},
        conv=nn.Conv2d(3, 4, 3, bits=3),
        other=nn.Conv2d(3, 4, 3, bits=3),
        end=nn.Quantize(4),
    )
    x = images(np.random.default_rng(0), 2, 3, 6, 6)
    network.calibrate([x])
    conv, other = network.get_submodule("conv"), network.get_submodule("other")
    other.quantizer = conv.quantizer  # type: ignore[attr-defined]
    compiled = nn.compile(network, x, codes_in=True, codes_out=True)
    loaded = nn.load(_saved(compiled, tmp_path))
    assert loaded.input_quantizer is not None
    codes = loaded.input_quantizer.codes(x)
    results, expected = loaded(codes), compiled(codes)
    assert list(results) == ["codes", "more"]
    assert all(results[key].dtype == np.uint8 and np.array_equal(results[key], expected[key]) for key in expected)
    for container in (tuple, list):
        of_two = Net(lambda net, x, container=container: container([net.conv(x), net.other(x)]), conv=conv, other=other)
        made = nn.load(_saved(nn.compile(of_two, x), tmp_path))(x)
        assert type(made) is container
        assert len(made) == 2


def test_other_containers_cannot_be_saved(tmp_path: Path) -> None:
    class Results(tuple[Any, ...]):
        __slots__ = ()

    conv = nn.Conv2d(3, 4, 3, bits=3)
    x = images(np.random.default_rng(0), 2, 3, 6, 6)
    for forward in (lambda net, x: Results([net.conv(x)]), lambda net, x: {1: net.conv(x)}):
        compiled = nn.compile(Net(forward, conv=conv).calibrate([x]), x)
        with pytest.raises(TypeError, match="plain tuple, list or dict by strings"):
            compiled.save(tmp_path / "network.ulp")
    assert not list(tmp_path.iterdir())


def test_the_file_is_small_and_other_readers_open_it(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    network = nn.Sequential(nn.Linear(1024, 512, bits=3)).calibrate([images(np.random.default_rng(0), 2, 1024)])
    compiled = nn.compile(network, (1, 1024))
    data = _saved(compiled, tmp_path)
    assert compiled.nbytes == 1024 * 512 * 3 // 8
    assert len(data) - compiled.nbytes < 512 * 8 + 2048  # scales, biases, the description
    theirs, (ours, metadata) = safetensors.load(data), _tensorfile.read(data)
    assert metadata["format"] == "ulp-network"
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[name], ours[name]) and theirs[name].dtype == ours[name].dtype for name in ours)
    by_them = safetensors.save(theirs, metadata)
    x = images(np.random.default_rng(1), 3, 1024)
    assert saved.is_saved(by_them)
    assert np.array_equal(nn.load(by_them)(x), compiled(x))


# Damage.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of a small network with every kind of argument in it."""
    network, x = _calibrated("residual")
    return _saved(nn.compile(network, x, mode="threshold", tune=False), tmp_path_factory.mktemp("saved"))


def _with(data: bytes, change: Callable[[dict[str, Any]], None], **metadata: str) -> bytes:
    """The file with its description changed."""
    arrays, known = _tensorfile.read(data)
    document = json.loads(known["network"])
    change(document)
    return b"".join(_tensorfile.write(arrays, known | {"network": json.dumps(document)} | metadata))


def _call(document: dict[str, Any], name: str) -> list[Any]:
    """The first call of this name."""
    found: list[Any] = next(call for call in document["lowered"]["plan"]["calls"] if call[0] == name)
    return found


def _try(data: bytes) -> bool:
    """Load and run what may be damaged: True, or False where it was refused as it should be."""
    try:
        loaded = nn.load(data, max_bytes=2**26)
    except ValueError as error:
        assert str(error).startswith("the bytes cannot be loaded: ")  # noqa: PT017  # either may happen
        return False
    np.asarray(loaded(np.zeros((1, *loaded.input_shape), np.float32)))
    return True


def test_truncated_files(small: bytes) -> None:
    size = int.from_bytes(small[:8], "little") + 8
    for length in [*range(0, size, 97), *range(size - 3, size + 3), *range(size, len(small), 397), len(small) - 1]:
        assert not _try(small[:length])
    assert not _try(small + b"\0")


def test_flipped_bytes(small: bytes) -> None:
    rng = random.Random(0)
    size = int.from_bytes(small[:8], "little") + 8
    refused = 0
    for _ in range(400):
        damaged = bytearray(small)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(size) if rng.random() < 0.8 else rng.randrange(len(small))
            damaged[at] = rng.randrange(256)
        refused += not _try(bytes(damaged))
    assert refused > 200


def test_a_flipped_bit_is_noticed(small: bytes) -> None:
    """Or it means nothing, as one in the name of the checksum."""
    rng = random.Random(0)
    expected, size = nn.load(small), int.from_bytes(small[:8], "little") + 8
    x = images(np.random.default_rng(1), 2, *expected.input_shape)
    for _ in range(300):
        damaged = bytearray(small)
        damaged[rng.randrange(size) if rng.random() < 0.3 else rng.randrange(size, len(small))] ^= 1 << rng.randrange(8)
        try:
            loaded = nn.load(bytes(damaged))
        except ValueError:
            continue
        assert np.array_equal(loaded(x), expected(x))
        assert str(loaded) == str(expected)


def test_files_without_a_checksum_are_older_ones(small: bytes) -> None:
    arrays, metadata = _tensorfile.read(small)
    assert "crc32" not in metadata
    assert b"".join(_tensorfile.write(arrays, metadata)) == small
    older = small.replace(b'"crc32"', b'"other"')
    assert older != small
    x = images(np.random.default_rng(1), 2, *nn.load(small).input_shape)
    assert np.array_equal(nn.load(older)(x), nn.load(small)(x))
    damaged = bytearray(small)
    damaged[-1] ^= 1
    with pytest.raises(ValueError, match="it is damaged: its contents do not have the checksum"):
        nn.load(bytes(damaged))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in a document."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(item, (*path, key))


HOSTILE: tuple[Any, ...] = (
    None,
    -1,
    0,
    1,
    7,
    2**15,
    2**24,
    2**31,
    2**63,
    2**80,
    0.5,
    1e300,
    "",
    "winograd",
    True,
    [],
    {},
    [1, 2],
    {"$float": "nan"},
    {"$array": "x"},
)


def test_descriptions_of_wrong_types_and_values(small: bytes) -> None:
    rng = random.Random(1)
    paths = list(_places(json.loads(_tensorfile.read(small)[1]["network"])))
    refused = 0
    for _ in range(600):
        path, value, remove = rng.choice(paths[1:]), rng.choice(HOSTILE), rng.random() < 0.1

        def change(document: Any, path: tuple[Any, ...] = path, value: Any = value, remove: bool = remove) -> None:
            for key in path[:-1]:
                document = document[key]
            if remove:
                del document[path[-1]]
            else:
                document[path[-1]] = value

        refused += not _try(_with(small, change))
    assert refused > 300


def _deep(data: bytes) -> bytes:
    text = b'{"__metadata__":' + b"[" * 200_000
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:0], "it has 0 bytes"),
        (lambda data: b"\xff" * len(data), "more than 16777216 are not read"),
        (lambda data: data[:8] + b"\xff" + data[9:], "the header is not valid JSON"),
        (_deep, "nested too deeply"),
        (lambda data: data[:-1], "within the .* bytes of data: is it cut off"),
        (lambda data: _with(data, lambda _: None, format="other"), "no saved network"),
        (lambda data: _with(data, lambda _: None, version="2"), "version '2', and this ulp reads version 1"),
        (lambda data: _with(data, lambda _: None, kind="OnnxNetwork"), "of kind 'OnnxNetwork', not 'CompiledNetwork'"),
        (lambda data: _with(data, lambda d: d.pop("mode")), "a compiled network is an object of lowered, mode"),
        (lambda data: _with(data, lambda d: d.update(mode="int4")), "mode='int4': expected one of fp32, threshold"),
        (lambda data: _with(data, lambda d: d.update(codes_in=True)), "takes the other kind of input"),
        (lambda data: _with(data, lambda d: d["lowered"].update(labels=[])), "0 labels for"),
        (lambda data: _with(data, lambda d: d["lowered"].update(input_shape=[3, 5, 5])), "for an image of 3 x 21 x 18"),
        (lambda data: _with(data, lambda d: d["lowered"]["plan"].update(group=0)), "group = 0 is outside"),
        (
            lambda data: _with(data, lambda d: d["lowered"]["plan"].update(calls=[["finalize", 1, True, True]])),
            "is no list that begins with",
        ),
        (lambda data: _with(data, lambda d: d["lowered"]["plan"].update(calls=[["codes"]] * 20_000)), "20000 calls; at most 16384"),
        (lambda data: _with(data, lambda d: _call(d, "conv").__setitem__(1, 77)), "call .*, conv: .* no tensor 77"),
        (lambda data: _with(data, lambda d: _call(d, "conv").pop()), "call .*, conv: "),
        (lambda data: _with(data, lambda d: _call(d, "conv")[3].update(bits=9)), "call .*, conv: "),
        (lambda data: _with(data, lambda d: _call(d, "conv")[3].update({"$packed": "gone"})), "the file holds no array 'gone'"),
        (lambda data: _with(data, lambda d: _call(d, "max_pool").__setitem__(4, _call(d, "max_pool")[3])), "is used twice"),
        (
            lambda data: _with(data, lambda d: _call(d, "codes").__setitem__(slice(1, 3), [2**24] * 2)),
            "activations take .* max_bytes=4294967296",
        ),
    ],
)
def test_what_is_wrong_is_said(small: bytes, damage: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=f"^the bytes cannot be loaded: .*{message}"):
        nn.load(damage(small))


def test_activations_and_results_within_max_bytes(small: bytes) -> None:
    network = nn.load(small)
    memory = network.memory + sum(4 * int(np.prod(shape)) for shape in network.output_shapes)
    assert nn.load(small, max_bytes=max(memory, 2**20)).memory == network.memory
    with pytest.raises(ValueError, match=f"max_bytes={memory - 1}: pass more if you trust"):
        nn.load(small, max_bytes=memory - 1)
    with pytest.raises(ValueError, match="max_bytes=0: expected an integer from 1"):
        nn.load(small, max_bytes=0)


def _description(calls: list[Any], outputs: int, arrays: dict[str, Any]) -> bytes:
    """A file of a network of 2^22 features whose results are given `outputs` times."""
    features = 2**22
    calls = [["codes", 1, 1, features, 1, 0, 1.0], ["input_floats", features, 1, 1, [0], False], *calls, *[["output", 0, True]] * outputs]
    labels = [["a", "b", 0]] * sum(call[0] != "codes" for call in calls)
    plan = {"group": 1, "throughput": False, "isa": "avx2", "calls": calls}
    shapes = [[features]] * outputs
    lowered = {"plan": plan, "labels": labels, "input_shape": [features], "output_shapes": shapes, "input_quantizer": None}
    document = {"lowered": lowered, "mode": "fp32", "hint": "latency", "codes_in": False, "container": "list", "keys": []}
    return b"".join(saved.to_parts("CompiledNetwork", document, arrays))


def test_many_results_of_a_wide_tensor() -> None:
    """Neither the time to load grows with channels x steps, nor the memory beyond what is allowed."""
    with pytest.raises(ValueError, match=r"activations take .* max_bytes"):
        nn.load(_description([], 2000, {}))
    begin = time.perf_counter()
    nn.load(_description([], 2000, {}), max_bytes=2**40)
    assert time.perf_counter() - begin < 5  # of some 0.1 s; a look at each channel takes 30 s and more


def test_window_means_of_many_channels_take_no_memory_per_window_and_channel() -> None:
    """The scales of its windows are stored once per window, not per channel."""
    windows = np.stack([np.zeros(16, np.int32), np.ones(16, np.int32)], 1)
    arrays = {"r": windows, "c": windows.copy(), "d": np.ones((16, 16), np.float32)}
    finish = {"residual": None, "low": -1.0, "high": 1.0, "targets": [[1, 0]], "thresholds": [None]}
    means = [["codes", 16, 16, 2**22, 1, 0, 1.0], ["window_mean", 0, *({"$array": name} for name in "rcd"), finish]]
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    nn.load(_description(means, 1, arrays), max_bytes=2**40)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB; per window and channel it was 4 GiB


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        nn.load(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ValueError, match="empty cannot be loaded: it has 0 bytes"):
        nn.load(tmp_path / "empty")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in files")
@pytest.mark.parametrize("load", [nn.load, ulp.load, ulp.PackedMatrix.load], ids=["nn.load", "ulp.load", "PackedMatrix.load"])
@pytest.mark.parametrize("suffix", [".ulp", ".npz", ".safetensors", ".onnx"])
def test_pipes_devices_and_folders_are_not_read(tmp_path: Path, load: Callable[[Path], Any], suffix: str) -> None:
    if load is ulp.load:
        pytest.importorskip("onnx")
    pipe, device, folder = (tmp_path / f"{name}{suffix}" for name in ("pipe", "device", "folder"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    for path in (pipe, device, folder):
        with pytest.raises(ValueError, match=r"regular file|names the format"):
            load(path)


def test_a_file_that_is_cut_off_while_it_is_read(small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping of it would end the process with SIGBUS."""
    path = tmp_path / "network.ulp"
    path.write_bytes(small)
    read = _tensorfile.read

    def cut_first(data: Any) -> Any:
        os.truncate(path, 0)
        return read(data)

    monkeypatch.setattr(_tensorfile, "read", cut_first)
    x = images(np.random.default_rng(1), 2, 3, 21, 18)
    assert np.array_equal(nn.load(path)(x), nn.load(small)(x))


def test_an_onnx_model_is_no_saved_network(small: bytes) -> None:
    assert saved.is_saved(small[:16])
    assert not saved.is_saved(b"\x08\x0a\x12\x07pytorch\x1a\x052.13")
    assert not saved.is_saved(b"")
