"""Networks on the emulated GPU, bit for bit the CPU's results: convolutions, every step that has a form there, whole networks."""

from __future__ import annotations

import ast
import itertools
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conv_sweep
import numpy as np
import pytest
import test_plan_elements
import test_plan_units
from cuda_arrays import CupyArray, OtherArray, TorchTensor, fake_cupy, fake_torch
from cuda_modules import NO_EMULATOR, load_emulated
from hypothesis import given, settings
from reference import Array, assert_exact
from test_cuda_kernels import Emulator
from test_nn_compile import Random, networks
from test_plan import branches, padded_rows, scaled

import ulp
from ulp import _core, config, nn
from ulp._gpu import builder, native, steps
from ulp._gpu.network import DeviceNetwork
from ulp.nn.script import TENSORS, Script
from ulp.onnx.limits import Limits
from ulp.onnx.model import OnnxError, Port
from ulp.onnx.network import OnnxNetwork
from ulp.onnx.stages import IntegerStage

pytestmark = pytest.mark.skipif(load_emulated() is None, reason=NO_EMULATOR)


@pytest.fixture(scope="module", autouse=True)
def module() -> Iterator[Any]:
    native.replace_module(load_emulated())
    yield load_emulated()
    native.replace_module(None)


@pytest.fixture
def emulator(module: Any) -> Iterator[Emulator]:
    emulator = Emulator(module.__file__)
    emulator.configure(80)
    yield emulator
    emulator.configure(90, 132)


class Recorder(Script):
    """A script whose tensors may be described by position, and whose lists may be changed later, as tests do."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = super().__getattr__(name)
        return lambda **fields: call(**{key: list(value) if isinstance(value, list) else value for key, value in fields.items()})

    def codes(self, *sides: Any, **fields: Any) -> Any:
        return self.__getattr__("codes")(**dict(zip(TENSORS["codes"], sides, strict=False)), **fields)

    def floats(self, *sides: Any) -> Any:
        return self.__getattr__("floats")(**dict(zip(TENSORS["floats"], sides, strict=True)))


def on_gpu(describe: Callable[[Any], None], method: str = "") -> tuple[DeviceNetwork, Script]:
    script = Recorder(_core.Plan())
    describe(script)
    script.finalize(1, False, tune=False)
    names = [step["name"] for step in script.plan.steps()]
    return DeviceNetwork(script.calls, names, 0, dict.fromkeys(range(len(names)), method)), script


def assert_as_on_cpu(describe: Callable[[Any], None], *arrays: Array) -> None:
    network, script = on_gpu(describe)
    expected = script.plan.run(arrays[0] if len(arrays) == 1 else list(arrays))
    for i, (got, want) in enumerate(zip(network.on_host(arrays), expected, strict=True)):
        assert got.dtype == want.dtype
        assert_exact(got.view(np.uint8), want.view(np.uint8), f"output {i}")


def test_the_stub_says_what_the_module_has(module: Any) -> None:
    stub = Path(ulp.__file__).with_name("_cuda.pyi")
    for node in ast.parse(stub.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            members = [member.name for member in node.body if isinstance(member, ast.FunctionDef)]
            assert [name for name in members if not hasattr(getattr(module, node.name), name)] == [], node.name
        elif isinstance(node, ast.FunctionDef):
            assert hasattr(module, node.name)


def random_convolution(rng: np.random.Generator, form: str, pairs: list[tuple[int, int]] | None = None) -> conv_sweep.Problem:
    return conv_sweep.random_problem(rng, conv_sweep.Path(form, None, ""), pairs, 300)


def assert_convolves(p: conv_sweep.Problem, form: str, method: str = "") -> None:
    network, _ = on_gpu(lambda plan: conv_sweep.describe(p, conv_sweep.Path(form, None, ""), plan), method)
    got, *codes = network.on_host([p.images])
    assert_exact(got, p.sums.astype(np.float32), str(p))
    for found in codes:
        nearest = np.clip(np.rint(p.sums.astype(np.float32)) + conv_sweep.ZERO, 0, 255).astype(np.int64)
        assert_exact(found, conv_sweep.TABLE[nearest], str(p))


@pytest.mark.parametrize("arch", [75, 80, 90])
@pytest.mark.parametrize("form", conv_sweep.FORMS)
def test_random_convolutions(emulator: Emulator, arch: int, form: str) -> None:
    rng = np.random.default_rng(arch)
    for number in range(12):
        emulator.configure(arch, int(rng.choice([1, 4, 132])))
        emulator.seed(number)
        assert_convolves(random_convolution(rng, form), form)


def kind_of(kernel: str) -> str:
    """Of a row of csrc/cuda/conv_kernels.h: "s4", "b1", "s8", "wgmma" or "wgmma_b1"."""
    return kernel.removeprefix("conv_").rpartition("_")[0]


# By the kind of a kernel: architectures, and pairs (a_bits, w_bits).
NARROW = [(a, w) for a in range(1, 5) for w in range(1, 5)]
ALL = [(a, w) for a in range(1, 9) for w in range(1, 9)]
KINDS: dict[str, tuple[tuple[int, ...], list[tuple[int, int]]]] = {
    "s4": ((75, 80), NARROW),
    "s8": ((75, 80, 120), ALL),
    "b1": ((80, 89, 90), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2)]),
    "wgmma": ((90,), ALL),
    "wgmma_b1": ((90,), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)]),
}


@pytest.mark.parametrize("kernel", load_emulated().conv_kernels() if load_emulated() else [])
def test_every_kernel_convolves(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Random strides, borders, dilations, groups, zero points and signs, also of fewer channels than planes are made for."""
    monkeypatch.setattr(builder, "_MIN_PLANE_CHANNELS", 1)
    arches, pairs = KINDS[kind_of(kernel)]
    rng = np.random.default_rng(len(kernel))
    for arch in arches:
        for number in range(5 if len(arches) > 1 else 10):
            emulator.configure(arch, int(rng.choice([1, 4, 40])))
            emulator.seed(number)
            assert_convolves(random_convolution(rng, "padded", pairs), "padded", kernel)


def test_every_pair_of_bits(emulator: Emulator) -> None:
    rng = np.random.default_rng(0)
    for a_bits in range(1, 9):
        for w_bits in range(1, 9):
            emulator.configure(80 if (a_bits + w_bits) % 2 else 90, 4)
            assert_convolves(conv_sweep.random_problem(rng, conv_sweep.Path("padded", None, ""), [(a_bits, w_bits)], 60), "padded")


@pytest.mark.parametrize(("bits", "arch"), [((4, 4), 80), ((8, 8), 90)])
def test_sums_at_the_edge_of_an_accumulator_are_cut(emulator: Emulator, bits: tuple[int, int], arch: int) -> None:
    """The accumulator holds 2^(8 - bits) times the sum: K beyond 65536 takes two parts, also where one image has no use for them."""
    emulator.configure(arch, 1)
    a_bits, w_bits = bits
    channels = 65536 + 128 if a_bits < 8 else 65792
    images = np.full((1, 1, 1, channels), 2**a_bits - 1, np.uint8)
    weights = np.full((1, 1, 1, channels, 3), -(2 ** (w_bits - 1)), np.int8)
    shape: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "start": None}
    p = conv_sweep.Problem("padded", images, a_bits, 0, weights, w_bits, 0, **shape)
    assert_convolves(p, "padded")


@pytest.mark.parametrize("kernel", load_emulated().conv_kernels() if load_emulated() else [])
def test_memory_is_shared_without_conflicts(emulator: Emulator, kernel: str) -> None:
    """Reads and writes of shared memory in a layer of whole pieces take no more wavefronts than they must."""
    arches, pairs = KINDS[kind_of(kernel)]
    rng = np.random.default_rng(0)
    for bits in {min(pairs), max(pairs)} if "b1" in kernel else {(4, 4), (3, 1)}:
        images = rng.integers(0, 2 ** bits[0], (1, 10, 10, 32)).astype(np.uint8)
        weights = rng.integers(0, 2 ** bits[1], (1, 3, 3, 32, 64)).astype(np.uint8)
        shape: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "start": None}
        emulator.configure(80 if 80 in arches else 90)
        emulator.reset()
        assert_convolves(conv_sweep.Problem("padded", images, bits[0], 0, weights, bits[1], 0, **shape), "padded", kernel)
        for what in range(3):  # loads, stores, ldmatrix
            found = emulator.traffic(what)
            assert found.wavefronts == found.ideal, f"{kernel}, kind {what}: {found.wavefronts} wavefronts, {found.ideal} would do"


def layers_of_few_bits(seed: int, a_bits: int, w_bits: int) -> tuple[Callable[[Any], None], Array]:
    """A tensor that two layers write and two read, as operand and as shortcut; the second tensor by thresholds or with a shortcut."""
    rng = np.random.default_rng(seed)
    signed = bool(rng.integers(2))
    low, high = (-(2 ** (w_bits - 1)), 2 ** (w_bits - 1)) if signed else (0, 2**w_bits)
    weight_zero = 0 if signed else int(rng.integers(high))
    size, images = int(rng.integers(3, 8)), int(rng.integers(1, 4))
    inputs, first, second = 4 * int(rng.integers(1, 40)), 16 * int(rng.integers(1, 8)), 4 * int(rng.integers(1, 20))
    zero = [int(rng.integers(2**a_bits)) for _ in range(3)]

    def describe(plan: Any) -> None:
        source = plan.codes(size, size, inputs, a_bits, zero[0], 1.0)
        joined = plan.codes(size, size, first + second, a_bits, zero[1], 0.5)
        counted = plan.codes(size, size, first + second, a_bits, zero[2], 0.25)
        last, values = plan.codes(size, size, 5, 7, 64, 0.25), plan.floats(size, size, 5)
        plan.input_codes(tensor=source, nhwc=True)

        def conv(tensor: Any, kernel: int, channels: int, n: int, **finish: Any) -> None:
            bipolar = signed and w_bits == 1
            w = rng.choice([-1, 1], (kernel, kernel, channels, n)) if bipolar else rng.integers(low, high, (kernel, kernel, channels, n))
            weights = padded_rows(w.astype(np.int8 if signed else np.uint8), w_bits)
            window: dict[str, Any] = {"stride": (1, 1), "padding": (kernel // 2,) * 4, "dilation": (1, 1), "weight_zero": weight_zero}
            entries = scaled(rng, n, **finish)
            plan.conv(source=tensor, source_channel=0, weights=weights, kernel=(kernel, kernel), finish=entries, method=None, **window)

        conv(source, 1, inputs, first, targets=[(joined, 0)])
        conv(source, 3, inputs, second, targets=[(joined, first)])
        table = np.sort(rng.integers(-60, 60, (first + second, 2**a_bits - 1)), axis=1).astype(np.int32)
        by_thresholds = {"thresholds": [(table, rng.random(first + second) < 0.5)]}
        more = by_thresholds if seed % 2 else {"residual": (joined, 0)}
        conv(joined, 3, first + second, first + second, targets=[(counted, 0)], **more)
        conv(counted, 1, first + second, 5, targets=[(last, 0), (values, 0)], residual=(joined, 16) if first > 16 else None)
        plan.output(tensor=last, nhwc=True)
        plan.output(tensor=values, nhwc=False)

    return describe, rng.integers(0, 2**a_bits, (images, size, size, inputs)).astype(np.uint8)


@pytest.mark.parametrize(("arch", "kernel"), [(90, "conv_wgmma_b1_128x128"), (80, "conv_b1_64x64"), (86, "conv_b1_128x128")])
def test_codes_stay_planes_between_layers(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, arch: int, kernel: str) -> None:
    """Written by the epilogue of one layer, read by the next: as its operand, and as its shortcut."""
    monkeypatch.setattr(builder, "_MIN_PLANE_CHANNELS", 1)
    for seed, (a_bits, w_bits) in enumerate([(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (3, 1)]):
        emulator.configure(arch, [1, 4, 40][seed % 3])
        emulator.seed(seed)
        describe, x = layers_of_few_bits(10 * arch + seed, a_bits, w_bits)
        network, script = on_gpu(describe, kernel)
        methods = network.methods(len(x))[1:5]
        assert [("reads planes" in text, "writes planes" in text) for text in methods] == [(False, True)] * 2 + [
            (True, True),
            (True, False),
        ]
        for got, want in zip(network.on_host([x]), script.plan.run(x), strict=True):
            assert_exact(got.view(np.uint8), want.view(np.uint8), f"seed {seed}, W{w_bits}A{a_bits}")


def test_codes_are_planes_where_that_is_modelled_to_be_faster(emulator: Emulator) -> None:
    emulator.configure(90, 132)

    def describe(plan: Any) -> None:
        rng = np.random.default_rng(0)
        tensors = [plan.codes(14, 14, 256, 2, 1, 1.0) for _ in range(3)]
        plan.input_codes(tensor=tensors[0], nhwc=True)
        for source, target in itertools.pairwise(tensors):
            window: dict[str, Any] = {"stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1), "weight_zero": 0}
            weights = padded_rows(rng.choice(np.array([-1, 1], np.int8), (3, 3, 256, 256)), 1)
            entries = scaled(rng, 256, [(target, 0)])
            plan.conv(source=source, source_channel=0, weights=weights, kernel=(3, 3), finish=entries, method=None, **window)
        plan.output(tensor=tensors[-1], nhwc=True)

    network, _ = on_gpu(describe)
    few, many = network.methods(1)[2], network.methods(64)[2]
    assert "planes" not in few
    assert many.endswith("reads planes")
    assert "conv_wgmma_b1" in many


STEPS: list[tuple[Any, str, list[int]]] = [
    (test_plan_elements, "test_lookups", [0, 1]),
    (test_plan_elements, "test_combinations", [0, 1, 2, 3]),
    (test_plan_elements, "test_rearrangements", [0, 1, 2, 3]),
    (test_plan_elements, "test_input_by_pixels", [0, 1]),
    (test_plan_elements, "test_products_of_floats", [0, 1]),
    (test_plan_units, "test_biases_in_sums_and_units_of_results", [0, 1]),
    (test_plan_units, "test_tables_behind_epilogues", [3, 11]),
    (test_plan_units, "test_poolings_that_take_the_minimum_of_some_channels", [1, 7]),
]


@pytest.mark.parametrize(("owner", "name", "seeds"), STEPS, ids=[name.removeprefix("test_") for _, name, _ in STEPS])
def test_the_cpus_steps(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seeds: list[int]) -> None:
    """What the CPU's steps are tested with, on the GPU."""
    checked = []

    def both_sides(describe: Callable[[Any], None], x: Array) -> None:
        assert_as_on_cpu(describe, x[:2])
        checked.append(x)

    monkeypatch.setattr(owner, "both_sides", both_sides)
    for seed in seeds:
        emulator.seed(seed)
        getattr(owner, name)(seed)
    assert len(checked) == len(seeds)


@pytest.mark.parametrize("seed", range(3))
def test_slices_shortcuts_and_shared_memory(emulator: Emulator, seed: int) -> None:
    emulator.seed(seed)
    describe = branches(seed)
    plan = _core.Plan()
    describe(plan)
    channels, height, width = (plan.steps()[0]["out_shape"][i] for i in (2, 0, 1))
    x = np.random.default_rng(seed).standard_normal((2, channels, height, width)).astype(np.float32)
    assert_as_on_cpu(describe, x)


# Whole networks.


def assert_runs(network: nn.Module, x: Array, **options: Any) -> Any:
    network.calibrate([x])
    compiled = nn.compile(network, x, tune=False, **options)
    there = compiled.to("cuda")
    expected = compiled(x)
    found = there(x)
    assert type(found) is type(expected)
    several = isinstance(expected, (list, tuple))
    for i, (a, b) in enumerate(zip(found if several else [found], expected if several else [expected], strict=True)):
        assert a.dtype == b.dtype
        assert_exact(a.view(np.uint8), b.view(np.uint8), f"output {i} of\n{there}")
    return there


class Block(nn.Module):
    """ResNet's basic block, of so many bits."""

    def __init__(self, inputs: int, outputs: int, stride: int, **bits: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False, **bits)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, **bits)
        self.add = nn.Add()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, **bits)

    def forward(self, x: Any) -> Any:
        return self.relu(self.add(self.conv2(self.relu(self.bn1(self.conv1(x)))), self.shortcut(x)))


def small_network(bits: int) -> nn.Sequential:
    """A residual network with a stem, poolings, a depthwise, a grouped and a dilated convolution, all of so many bits."""
    both: dict[str, Any] = {"bits": bits, "act_bits": bits}
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 7, 2, 3, bits=8, act_signed=True), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(Block(8, 8, 1, **both), Block(8, 16, 2, **both)),
        *(nn.Conv2d(16, 16, 3, 1, 1, groups=16, **both), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 2, 2, groups=2, **both)),
        *(nn.AvgPool2d(3, 2, 1, act_bits=bits), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10, **both)),
    )


@pytest.mark.parametrize(("bits", "arch", "mode"), [(3, 75, "fp32"), (4, 80, "threshold"), (8, 90, "fp32")])
def test_a_network(emulator: Emulator, bits: int, arch: int, mode: str) -> None:
    emulator.configure(arch, 8)
    rng = np.random.default_rng(bits)
    x = rng.standard_normal((2, 3, 24, 24)).astype(np.float32)
    there = assert_runs(small_network(bits), x, mode=mode)
    for images in (3, 1, 2, 0):  # other batch sizes, before and after the largest
        y = rng.standard_normal((images, 3, 24, 24)).astype(np.float32)
        assert_exact(there(y), there.to("cpu")(y), f"{images} images")
    assert there.to("cuda") is there
    assert ("conv_wgmma" if arch == 90 else "conv_s") in str(there)


@settings(max_examples=25)
@given(case=networks())
def test_random_networks(case: tuple[Random, Array]) -> None:
    try:
        assert_runs(*case)
    except nn.LayerError as error:
        assert "different quantizers" in str(error)  # noqa: PT017  # the one thing that these networks may ask too much of


def test_threads_take_turns(emulator: Emulator) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    there = assert_runs(small_network(4), x)
    expected = there(x)
    found: list[Any] = [None] * 4

    def work(i: int) -> None:
        found[i] = there(x[: i + 1])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(found):
        assert_exact(result, expected[: i + 1], f"thread {i}")


def test_values_that_are_refused(emulator: Emulator) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bits=4), nn.Quantize(4))
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    there = assert_runs(network, x)
    for bad in (np.nan, np.inf):
        y = x.copy()
        y[0, 1, 2, 3] = bad
        with pytest.raises(_core.NotFinite):
            there(y)
    codes = assert_runs(network, x, codes_out=True)
    assert_exact(codes(x), codes.to("cpu")(x), "after an error")
    takes_codes = nn.compile(network, x, codes_in=True, tune=False).to("cuda")
    bits = takes_codes.input_quantizer.bits
    with pytest.raises(_core.CodeOutOfRange):
        takes_codes(np.full((1, 3, 4, 4), 2**bits, np.uint8))
    with pytest.raises(nn.LayerError, match="compile it again for another size"):
        there(x[:, :, :2])


def test_a_step_without_a_form_is_named(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bits=4), nn.MaxPool2d(2), nn.Quantize(4))
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    there = assert_runs(network, x)
    compiled = there.to("cpu")
    assert there.to("auto") is there
    assert isinstance(compiled.to("auto"), type(there))
    monkeypatch.delitem(steps.FORMS, "max_pool")
    with pytest.raises(ValueError, match=r"the step 'max_pool' of .*MaxPool2d.* has no form on a GPU yet: run this network on the CPU"):
        compiled.to("cuda")
    assert compiled.to("auto") is compiled
    assert compiled.to("cpu") is compiled
    for device, error in (("cuda:7", ValueError), ("tpu", ValueError), (0, TypeError)):
        with pytest.raises(error):
            compiled.to(device)


@pytest.mark.parametrize("make", [TorchTensor, CupyArray, OtherArray])
def test_arrays_on_the_device(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    """Results are of the input's library, on its stream; what does not fit is refused before anything starts."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    x = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)
    there = assert_runs(small_network(4), x)
    result = there(make(x))
    assert type(result) is make
    assert_exact(result.host, there.to("cpu")(x), "on the device")
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)  # channels last
    assert_exact(there(make(turned)).host, result.host, "of strides")
    assert there(make(x[:0])).shape == (0, 10)
    with pytest.raises(nn.LayerError, match="compile it again for another size"):
        there(make(x[:, :, :11]))
    with pytest.raises(TypeError, match=r"x is .*ulp\.nn computes on the CPU; .* or move a compiled network to the GPU"):
        there.to("cpu")(make(x))
    with pytest.raises(TypeError, match="x has dtype uint8: on a GPU this network takes float32"):
        there(make(x.astype(np.uint8)))
    with pytest.raises(ValueError, match="x is on cuda:1, and the network on cuda:0"):
        there(make(x, 1))
    x[0, 0, 0, 0] = np.nan
    assert there(make(x)).shape == (3, 10)  # nobody looks
    monkeypatch.setattr(config, "cuda_check", True)
    with pytest.raises(_core.NotFinite):
        there(make(x))


def test_pickles_and_saved_networks(emulator: Emulator, tmp_path: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    there = assert_runs(small_network(3), x)
    again = pickle.loads(pickle.dumps(there))
    assert type(again) is type(there)
    assert again.device == "cuda:0"
    assert_exact(again(x), there(x), "unpickled")
    there.to("cpu").save(tmp_path / "network.ulp")
    assert_exact(nn.load(tmp_path / "network.ulp").to("cuda")(x), there(x), "loaded")


class Listed(nn.Module):
    """A network that returns its result in a list, as the parts of a loaded model do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> list[Any]:
        return [self.network(x)]


def test_a_loaded_model(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    compiled = assert_runs(Listed(small_network(4)), x).to("cpu")
    ports = Port("x", np.dtype(np.float32), ("N", 3, 12, 12)), Port("y", np.dtype(np.float32), ("N", 10))
    network = OnnxNetwork(ports[:1], ports[1:], [IntegerStage(("x",), ("y",), compiled)], {}, [], 21, Limits())
    network.save(tmp_path / "model.ulp")
    expected = network(x)
    for there in (network.to("cuda"), ulp.load(tmp_path / "model.ulp", device="cuda:0"), ulp.load(tmp_path / "model.ulp", device="auto")):
        assert there.device == "cuda:0"
        assert_exact(there(x), expected, "by position")
        assert_exact(there(x=x), expected, "by name")
        assert_exact(there.to("cpu")(x), expected, "back on the CPU")
        assert_exact(pickle.loads(pickle.dumps(there))(x), expected, "unpickled")
        with pytest.raises(TypeError, match="the input 'x' is missing"):
            there()
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    assert_exact(there(CupyArray(x)).host, expected, "on the device")
    two = OnnxNetwork(ports[:1], ports[1:], [IntegerStage(("x",), ("y",), compiled)] * 2, {}, [], 21, Limits())
    with pytest.raises(OnnxError, match="device='cuda': the model runs in 2 parts; on a GPU all of a model has to be one integer plan"):
        two.to("cuda")
    assert two.to("auto") is two
