"""A compiled network gives, bit for bit, what its layers give one after another; and says what it cannot take."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nn_formulas import BACKENDS, Net, images, plans_of
from reference import Array, assert_exact

import ulp
from ulp import nn
from ulp.nn import lower


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def as_list(results: Any) -> list[Array]:
    return list(results.values()) if isinstance(results, dict) else list(results) if isinstance(results, (tuple, list)) else [results]


def assert_compiles(network: nn.Module, x: Array, backend: str, calibrate: bool = True, **options: Any) -> nn.CompiledNetwork:
    """The compiled network, after it has given what the layers give."""
    with plans_of(backend):
        if calibrate:
            network.calibrate([x])
        expected = network(x)
        compiled = nn.compile(network, x, **options)
        found = compiled(x)
        assert type(found) is type(expected)
        for i, (a, b) in enumerate(zip(as_list(found), as_list(expected), strict=True)):
            assert_exact(a, b, f"output {i} of {network}\n{compiled}")
    return compiled


# Random networks: each operation takes values that are there and adds one.


class Random(nn.Module):
    """A list of (layer, indices of its operands); the last value and some others are its outputs."""

    def __init__(self, calls: list[tuple[nn.Module, list[int]]], outputs: list[int]) -> None:
        super().__init__()
        self.calls = calls
        self.outputs = outputs
        for i, (layer, _) in enumerate(calls):
            self.add_module(f"l{i}", layer)

    def forward(self, x: Any) -> list[Any]:
        values = [x]
        for layer, operands in self.calls:
            values.append(layer(*(values[i] for i in operands)))
        return [values[i] for i in self.outputs]


KINDS = ("conv", "conv", "conv", "depthwise", "grouped", "relu", "max", "avg", "add", "add", "concat", "quantize")


@st.composite
def networks(draw: st.DrawFn) -> tuple[Random, Array]:
    """(network, input). Sums take what can be added to; pooled values are quantized before they leave."""
    channels, size = draw(st.integers(1, 9)), draw(st.integers(4, 9))
    shapes = [(channels, size, size)]
    sums: set[int] = set()  # results of a convolution, an average or a Quantize
    floats: set[int] = set()  # what can be an output
    calls: list[tuple[nn.Module, list[int]]] = []

    def add(layer: nn.Module, operands: list[int], shape: tuple[int, int, int], *, sums_up: bool = False, is_float: bool = True) -> int:
        calls.append((layer, operands))
        shapes.append(shape)
        if sums_up:
            sums.add(len(shapes) - 1)
        if is_float:
            floats.add(len(shapes) - 1)
        return len(shapes) - 1

    def act(bits: int) -> dict[str, Any]:
        signed = None if bits == 1 else draw(st.sampled_from([None, False, True]))
        return {"act_bits": bits, "act_signed": signed, "act_asymmetric": draw(st.booleans())}

    for _ in range(draw(st.integers(1, 7))):
        source = draw(st.integers(0, len(shapes) - 1))
        c, h, w = shapes[source]
        kind = draw(st.sampled_from(KINDS))
        bits, act_bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
        if kind in ("conv", "depthwise", "grouped"):
            groups = {"conv": 1, "depthwise": c, "grouped": 2 if c % 2 == 0 else 1}[kind]
            out = c if kind == "depthwise" else groups * draw(st.integers(1, 5))
            k = draw(st.sampled_from([1, 3]))
            mode = draw(st.sampled_from(["zeros", "zeros", "replicate"]))
            layer: nn.Module = nn.Conv2d(c, out, k, 1, k // 2, groups=groups, padding_mode=mode, bits=bits, **act(act_bits))
            add(layer, [source], (out, h, w), sums_up=True)
        elif kind == "relu":
            layer = draw(st.sampled_from([nn.ReLU, nn.ReLU6, nn.Identity]))()
            add(layer, [source], shapes[source], is_float=source in floats)
        elif kind == "max":
            add(nn.MaxPool2d(3, 1, 1), [source], shapes[source], is_float=False)
        elif kind == "avg":
            add(nn.AvgPool2d(3, 1, 1, **act(act_bits)), [source], shapes[source], sums_up=True)
        elif kind == "quantize":
            add(nn.Quantize(**act(act_bits)), [source], shapes[source], sums_up=True)
        elif kind == "concat":
            others = draw(st.lists(st.integers(0, len(shapes) - 1), min_size=1, max_size=3))
            operands = [source, *others]
            add(nn.Concat(1), operands, (sum(shapes[i][0] for i in operands), h, w), is_float=all(i in floats for i in operands))
        else:
            firsts = [i for i in sums if any(shapes[j] == shapes[i] for j in range(len(shapes)) if j != i)]
            if firsts:
                first = draw(st.sampled_from(firsts))
                second = draw(st.sampled_from([j for j in range(len(shapes)) if shapes[j] == shapes[first]]))
                add(nn.Add(**act(act_bits)), [first, second], shapes[first])
    if not floats:
        add(nn.Quantize(8), [len(shapes) - 1], shapes[-1])
    outputs = draw(st.lists(st.sampled_from(sorted(floats)), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Random(calls, outputs), images(rng, 2, *shapes[0])


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    case=networks(),
    hint=st.sampled_from(["latency", "throughput"]),
    group=st.integers(1, 3),
    method=st.sampled_from(["minmax", "percentile", "mse"]),
)
def test_random_networks(backend: str, case: tuple[Random, Array], hint: Any, group: int, method: str) -> None:
    network, x = case
    network.calibrate([x], method)

    def forget_plans() -> None:
        for layer, _ in network.calls:
            layer.act_bits = getattr(layer, "act_bits", 0)

    with plans_of("reference"):
        expected = network(x)
    forget_plans()
    try:
        compiled = assert_compiles(network, x, backend, calibrate=False, hint=hint, group=group)
    except nn.LayerError as error:
        assert "different quantizers" in str(error)  # noqa: PT017  # the one thing that these networks may ask too much of
        return
    for a, b in zip(compiled(x), expected, strict=True):
        assert_exact(a, b, str(compiled))


# Networks as people write them.


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False, bits=3)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False, bits=3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.add = nn.Add()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False, bits=3), nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(self.add(out, self.shortcut(x)))


def resnet() -> nn.Sequential:
    stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bits=8, act_signed=True), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(16, 10, bits=3))
    return nn.Sequential(stem, Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1), head)


@pytest.mark.parametrize("mode", ["fp32", "threshold"])
def test_resnet(backend: str, mode: Any) -> None:
    # Fresh batch normalisations only scale by 1 / sqrt(1 + 1e-5), which rounds; without it the folded network is the layers' own.
    network = resnet()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    x = images(np.random.default_rng(0), 2, 3, 32, 32)
    if mode == "fp32":
        assert_compiles(network, x, backend)
    with plans_of(backend):
        network.calibrate([x])
        again = nn.compile(network, x, mode=mode)
        assert np.abs(again(x) - network(x)).max() < 1e-3
        steps = again._plan.steps()
    # Sums, activations, normalisation and the two clamps cost no step of their own.
    assert [s["name"] for s in steps] == ["input", "conv", "max_pool", "max_pool", *["conv"] * 7, "window_mean", "linear", "output"]


def test_inception_concatenates_without_a_step(backend: str) -> None:
    def forward(net: Any, x: Any) -> Any:
        return net.head(net.cat(net.relu(net.a(x)), net.relu(net.b(net.relu(net.b0(x)))), net.relu(net.c(net.pool(x)))))

    network = Net(
        forward,
        a=nn.Conv2d(6, 5, 1, bits=3),
        b0=nn.Conv2d(6, 3, 1, bits=3),
        b=nn.Conv2d(3, 7, 3, padding=1, bits=3),
        c=nn.Conv2d(6, 4, 1, bits=3),
        pool=nn.MaxPool2d(3, 1, 1),
        relu=nn.ReLU(),
        cat=nn.Concat(1),
        head=nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(16, 3, 3, bits=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    compiled = assert_compiles(network, images(np.random.default_rng(0), 2, 6, 9, 9), backend)
    names = [s["name"] for s in compiled._plan.steps()]
    assert "gather" not in names
    assert "rescale" not in names
    assert names.count("max_pool") == 2


def test_classifier_reads_an_image_in_its_own_order(backend: str) -> None:
    for channels in (3, 4, 6):
        network = nn.Sequential(
            nn.Conv2d(2, channels, 3, bits=4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.ReLU(),
            nn.Linear(channels * 6, 9, bits=1, act_bits=2),
            nn.ReLU6(),
            nn.Linear(9, 5, bits=5, act_signed=True),
        )
        compiled = assert_compiles(network, images(np.random.default_rng(0), 3, 2, 6, 8), backend)
        assert compiled.output_shapes == ((5,),)


def test_features_in_features_out(backend: str) -> None:
    network = nn.Sequential(nn.Linear(7, 6, bits=3), nn.ReLU(), nn.Linear(6, 5, bits=3))
    x = images(np.random.default_rng(0), 4, 7)
    compiled = assert_compiles(network, x, backend)
    assert len(compiled.profile(x)) == 4


def test_a_relu_and_its_input_are_both_used(backend: str) -> None:
    def forward(net: Any, x: Any) -> Any:
        y = net.a(x)
        return (net.b(net.relu(y)), net.c(y), y) if net.relu6 is None else (net.relu(y), net.relu6(y), y)

    layers = {"a": nn.Conv2d(3, 4, 3, bits=3, act_signed=True)} | {name: nn.Conv2d(4, 4, 3, bits=3, act_signed=True) for name in "bc"}
    network = Net(forward, relu=nn.ReLU(), **layers)
    network.relu6 = None
    x = images(np.random.default_rng(0), 2, 3, 8, 8) * 3
    names = [s["name"] for s in assert_compiles(network, x, backend)._plan.steps()]
    assert names.count("conv") == 3
    # A table behind y's codes gives those of relu(y); a step of its own where c reads y's codes, too.
    assert names.count("lookup") == (layers["b"].quantizer == layers["c"].quantizer)
    network.relu6 = nn.ReLU6()
    names = [s["name"] for s in assert_compiles(network, x, backend)._plan.steps()]
    assert names.count("conv") == 3  # floats after two clamps and after none: three times


def test_sums_of_sums(backend: str) -> None:
    def plain(net: Any, x: Any) -> Any:
        y = net.a(x)
        return net.second(net.first(y, net.b(x)), net.c(x))

    layers = {name: nn.Conv2d(3, 3, 3, padding=1, bits=3) for name in "abc"}
    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    network = Net(plain, **layers, first=nn.Add(), second=nn.Add()).calibrate([x])
    with pytest.raises(nn.LayerError, match="Add 'second': its first operand comes from Add 'first', and only a Conv2d, Linear"):
        nn.compile(network, x)

    def quantized(net: Any, x: Any) -> Any:
        y = net.a(x)
        return net.second(net.quantize(net.first(y, net.b(x))), net.c(x)), y

    assert_compiles(Net(quantized, **layers, first=nn.Add(), second=nn.Add(), quantize=nn.Quantize(6)), x, backend)


def test_the_second_operand_may_come_from_anywhere(backend: str) -> None:
    def forward(net: Any, x: Any) -> Any:
        y = net.a(x)
        z = net.add1(y, net.b(net.relu(y)))  # from the first operand itself
        w = net.add2(net.c(z), x)  # the input
        return net.add3(net.d(w), net.pool(w))

    network = Net(
        forward,
        **{name: nn.Conv2d(4, 4, 3, padding=1, bits=3) for name in "abcd"},
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(3, 1, 1),
        **{f"add{i}": nn.Add(5) for i in (1, 2, 3)},
    )
    assert_compiles(network, images(np.random.default_rng(0), 2, 4, 7, 7), backend)


def test_pooled_values_leave_through_a_quantize(backend: str) -> None:
    x = images(np.random.default_rng(0), 2, 4, 8, 8)
    network = nn.Sequential(nn.Conv2d(4, 4, 3, bits=3), nn.MaxPool2d(2)).calibrate([x])
    with pytest.raises(nn.LayerError, match=r"MaxPool2d '1' is asked for floats, but works on codes: put ulp.nn.Quantize\(\) behind it"):
        nn.compile(network, x)
    assert_compiles(network.append(nn.Quantize()), x, backend)
    assert_compiles(nn.Sequential(network[0], nn.Quantize(), network[1], nn.ReLU()), x, backend)


def random_norm(channels: int) -> nn.BatchNorm2d:
    rng = np.random.default_rng(channels)
    layer = nn.BatchNorm2d(channels, eps=1e-3)
    values = {"weight": images(rng, channels), "bias": images(rng, channels), "running_mean": images(rng, channels)}
    layer.load_state_dict({**values, "running_var": rng.random(channels)})
    return layer


def test_batch_norm_is_folded_in_float64(backend: str) -> None:
    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    conv, norm = nn.Conv2d(3, 6, 3, bits=3), random_norm(6)
    network = nn.Sequential(conv, norm, random_norm(6)).calibrate([x])
    with plans_of(backend):
        compiled = nn.compile(network, x)
        found = compiled(x)
        assert np.abs(found - network(x)).max() < 1e-4
    assert conv.quantizer is not None
    assert conv.bias is not None
    scale, bias = conv.weight_scale.astype(np.float64), conv.bias.astype(np.float64)
    for module in (norm, network[2]):
        assert isinstance(module, nn.BatchNorm2d)
        g, h = module.terms()
        scale, bias = scale * g, bias * g + h
    q = conv.quantizer
    sums = nn.Conv2d.from_quantized(conv.weight_int, 1.0, None, 1.0, q.zero, bits=3)
    acc = sums((x * (np.float32(1) / np.float32(q.scale))).astype(np.float32))
    m, b = (scale * q.scale).astype(np.float32)[:, None, None], bias.astype(np.float32)[:, None, None]
    assert_exact(found, acc * m + b, "the folded convolution")


def test_batch_norm_alone(backend: str) -> None:
    x = images(np.random.default_rng(0), 2, 5, 8, 8)
    network = nn.Sequential(nn.Conv2d(5, 4, 1, bits=3), nn.ReLU(), random_norm(4), nn.Conv2d(4, 3, 3, bits=3)).calibrate([x])
    with pytest.raises(nn.LayerError, match="BatchNorm2d '2' follows ReLU '1': batch normalisation becomes part of a Conv2d"):
        nn.compile(network, x)
    quantized = nn.Sequential(nn.Quantize(), random_norm(5), network[0], network[1], nn.Quantize(), network[2]).calibrate([x])
    with plans_of(backend):
        compiled = nn.compile(quantized, x)
        assert np.abs(compiled(x) - quantized(x)).max() < 1e-4
    assert [s["name"] for s in compiled._plan.steps()].count("depthwise") == 2


def test_a_shared_convolution_keeps_its_own_result(backend: str) -> None:
    def forward(net: Any, x: Any) -> Any:
        y = net.conv(x)
        return net.norm(y), y, net.conv(net.relu(x))

    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    network = Net(forward, conv=nn.Conv2d(3, 4, 3, bits=3), norm=nn.BatchNorm2d(4, eps=0.0), relu=nn.ReLU())
    compiled = assert_compiles(network, x, backend)
    assert sorted(row.layer for row in compiled.profile(x) if row.step == "conv") == ["conv", "conv", "conv:2"]


def test_results_keep_their_structure(backend: str) -> None:
    conv = nn.Conv2d(3, 4, 3, bits=3)
    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    for forward in (lambda net, x: net.conv(x), lambda net, x: [net.conv(x)] * 2, lambda net, x: {"a": net.conv(x)}):
        assert_compiles(Net(forward, conv=conv), x, backend)


def test_codes_in_and_out(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = images(rng, 2, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, bits=3, act_bits=8), nn.ReLU(), nn.Quantize(3)).calibrate([x])
    with plans_of(backend):
        compiled = nn.compile(network, x, codes_in=True, codes_out=True)
        first, last = network[0], network[2]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(last, nn.Quantize)
        assert compiled.input_quantizer == first.quantizer
        assert first.quantizer is not None
        assert last.quantizer is not None
        codes = first.quantizer.codes(x)
        found = compiled(codes)
        assert_exact(found, last.quantizer.codes(network(x)), "codes")
        assert [s["name"] for s in compiled._plan.steps()] == ["input", "conv", "output"]
        with pytest.raises(TypeError, match="x has dtype float32: the network was compiled with codes_in=True, expected uint8"):
            compiled(x)
        with pytest.raises(nn.LayerError, match="codes_out=True: the network ends in ReLU '1'"):
            nn.compile(network[:2], x, codes_out=True)
        narrow = nn.compile(nn.Sequential(nn.Conv2d(3, 5, 3, bits=3, act_bits=4)).calibrate([x]), x, codes_in=True)
        with pytest.raises(ValueError, match="the input holds codes beyond 15"):
            narrow(np.full((1, 3, 8, 8), 16, np.uint8))


def test_the_input_may_go_through_four_quantizers(backend: str) -> None:
    def forward(net: Any, x: Any) -> Any:
        return [net.get_submodule(name)(x) for name in net._modules]

    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    layers = {f"c{bits}": nn.Conv2d(3, 2, 3, bits=2, act_bits=bits) for bits in range(2, 6)}
    assert_compiles(Net(forward, **layers), x, backend)
    network = Net(forward, **layers, c6=nn.Conv2d(3, 2, 3, bits=2, act_bits=6)).calibrate([x])
    with pytest.raises(nn.LayerError, match="the input may go through at most 4 different quantizers, but 5 layers disagree"):
        nn.compile(network, x)
    with pytest.raises(nn.LayerError, match=r"one quantizer \(codes_in=True\)"):
        nn.compile(Net(forward, **layers), x, codes_in=True)


def test_a_result_may_go_through_more_quantizers(backend: str) -> None:
    def forward(net: Any, x: Any) -> Any:
        y = net.first(x)
        return [net.get_submodule(name)(y) for name in net._modules if name != "first"]

    layers = {f"c{bits}": nn.Conv2d(3, 2, 3, bits=2, act_bits=bits) for bits in range(2, 8)}
    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    assert_compiles(Net(forward, first=nn.Conv2d(3, 3, 1, bits=4), **layers), x, backend)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_readers_of_few_channels_that_want_them_laid_out_differently(backend: str, bits: int) -> None:
    def forward(net: Any, x: Any) -> Any:
        return net.wide(x), net.point(x), net.dilated(x), net.linear(net.flatten(x)), net.pair(x), net.cat(net.point(x), x)

    for channels in (1, 2, 3):
        options: dict[str, Any] = {"bits": bits, "act_bits": 4}
        network = Net(
            forward,
            wide=nn.Conv2d(channels, 5, 3, padding=1, **options),
            point=nn.Conv2d(channels, 5, 1, **options),
            dilated=nn.Conv2d(channels, 5, 3, dilation=2, **options),
            linear=nn.Linear(channels * 64, 5, **options),
            pair=nn.Conv2d(channels, 3 * channels, (3, 2), groups=channels, **options),
            flatten=nn.Flatten(),
            cat=nn.Sequential(),
        )
        network.cat = Cat(channels, bits)
        assert_compiles(network, images(np.random.default_rng(0), 2, channels, 8, 8), backend)


class Cat(nn.Module):
    """A concatenation that is convolved."""

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.cat = nn.Concat()
        self.conv = nn.Conv2d(5 + channels, 4, 3, bits=bits, act_bits=3)

    def forward(self, x: Any, y: Any) -> Any:
        return self.conv(self.cat(x, y))


def test_compiles_for_a_shape_and_runs_any_number_of_images(backend: str) -> None:
    x = images(np.random.default_rng(0), 5, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bits=3), nn.ReLU()).calibrate([x])
    with plans_of(backend):
        compiled = nn.compile(network, (1, 3, 8, 8), group=2)
        for n in range(6):
            assert_exact(compiled(x[:n]), network(x[:n]), f"{n} images")
        assert_exact(compiled.run(x[:, ::-1].astype(np.float64)), network(np.ascontiguousarray(x[:, ::-1])), "a view of float64")


# What people look at.


def test_graph_and_profile(backend: str) -> None:
    x = images(np.random.default_rng(0), 2, 3, 32, 32)
    with plans_of(backend):
        compiled = nn.compile(resnet().calibrate([x]), x)
        profile = compiled.profile(x)
    text = str(compiled)
    assert text.splitlines()[0].startswith("CompiledNetwork: [3, 32, 32] -> [10], mode='fp32', hint='latency'")
    rows = {row.layer: row for row in profile}
    assert {"input", "0.0", "0.3", "1.conv1", "2.shortcut.0", "4.0", "4.3", "output"} <= set(rows)
    row = rows["2.conv2"]
    assert (row.kind, row.step, row.bits, row.shape, row.macs) == ("Conv2d", "conv", (3, 3), (4, 4, 16), 2 * 4 * 4 * 16 * 16 * 9)
    assert rows["4.0"].bits == (0, 8)
    assert sum(row.share for row in profile) == pytest.approx(1)
    assert profile.ms == pytest.approx(sum(row.ms for row in profile))
    for word in ("2.shortcut.0", "W3A3", "4x4x16"):
        assert word in text
        assert word in str(profile)
    heads = str(profile).splitlines()[0].split()
    assert heads == ["layer", "type", "step", "kernel", "runs", "in", "bits", "shape", "ms", "GMAC/s", "share"]
    assert str(profile).splitlines()[-1].endswith("the minimum of each step over 5 runs after a first one")
    assert repr(compiled).startswith("<CompiledNetwork: [3, 32, 32]")


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_weights_take_their_bits(bits: int) -> None:
    x = images(np.random.default_rng(0), 1, 64, 6, 6)
    network = nn.Sequential(nn.Conv2d(64, 64, 3, bits=bits, act_bits=2), nn.Flatten(), nn.Linear(1024, 64, bits=bits, act_bits=2))
    compiled = nn.compile(network.calibrate([x]), x)
    assert compiled.nbytes == (64 * 64 * 9 + 1024 * 64) * bits // 8
    assert compiled.memory > 0
    assert compiled.macs == 64 * 64 * 9 * 16 + 1024 * 64


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_eight_threads_run_one_network(hint: Any) -> None:
    rng = np.random.default_rng(0)
    network = resnet()
    x = images(rng, 3, 3, 32, 32)
    network.calibrate([x])
    compiled = nn.compile(network, x, hint=hint)
    inputs = [images(rng, n, 3, 32, 32) for n in (1, 2, 3, 1, 2, 3, 4, 5)]
    expected = [(compiled(x), network(x)) for x in inputs]
    failures: list[str] = []
    barrier = threading.Barrier(8)

    def work(i: int) -> None:
        barrier.wait()
        for _ in range(20):
            if not np.array_equal(compiled(inputs[i]), expected[i][0]) or not np.array_equal(network(inputs[i]), expected[i][1]):
                failures.append(f"thread {i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_and_isa_change_nothing() -> None:
    x = images(np.random.default_rng(0), 3, 3, 32, 32)
    network = resnet().calibrate([x])
    expected = nn.compile(network, x)(x)
    for isa in ulp.available_isas():
        ulp.set_isa(isa)
        for threads in (1, 3):
            ulp.set_num_threads(threads)
            for hint in ("latency", "throughput"):
                assert_exact(nn.compile(network, x, hint=hint)(x), expected, f"{isa}, {threads} threads, {hint}")


def test_the_native_plan_is_the_default() -> None:
    assert type(lower.new_plan()) is ulp._core.Plan
