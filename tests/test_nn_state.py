"""State dicts, weights from torch, copies and pickles, torch tensors in and out."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nn_formulas import images
from reference import Array, assert_exact

import ulp
from ulp import nn


def network() -> nn.Sequential:
    return nn.Sequential(
        {
            "stem": nn.Sequential(nn.Conv2d(3, 6, 3, bits=4, act_bits=8), nn.BatchNorm2d(6), nn.ReLU()),
            "pool": nn.AdaptiveAvgPool2d(2),
            "flat": nn.Flatten(),
            "head": nn.Linear(24, 5, bias=False, bits=1, act_bits=2),
        }
    )


NAMES = ["stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias", "stem.1.running_mean", "stem.1.running_var", "head.weight"]


def float_state(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = dict(zip(NAMES, [(6, 3, 3, 3), (6,), (6,), (6,), (6,), (6,), (5, 24)], strict=True))
    state = {name: images(rng, *shape) for name, shape in shapes.items()}
    state["stem.1.running_var"] **= 2
    return {**state, "stem.1.num_batches_tracked": np.array(3)}


def test_float_names_in_and_integers_round_trip() -> None:
    x = images(np.random.default_rng(1), 2, 3, 9, 9)
    first = network()
    assert first.load_state_dict(float_state()) == ([], [])
    first.calibrate([x])
    state = first.state_dict()
    assert set(NAMES) | {"stem.0.weight_scale", "stem.0.act_scale", "stem.0.act_zero", "pool.act_scale", "head.weight_scale"} <= set(state)
    assert "num_batches_tracked" not in "".join(state)
    second = network()
    second.load_state_dict(state)
    for a, b in zip(first.modules(), second.modules(), strict=True):
        if isinstance(a, (nn.Conv2d, nn.Linear)) and isinstance(b, (nn.Conv2d, nn.Linear)):
            assert_exact(b.weight_int, a.weight_int, "integers")
            assert_exact(b.weight_scale, a.weight_scale, "scales")
        assert getattr(a, "quantizer", None) == getattr(b, "quantizer", None)
    assert_exact(second(x), first(x), "result")
    again = second.state_dict()
    assert list(again) == list(state)
    for name, value in state.items():
        assert_exact(again[name], value, name)
        assert again[name].dtype == value.dtype


def test_state_is_a_copy() -> None:
    net = network()
    state = net.state_dict()
    for value in state.values():
        value[...] = 7
    assert not any((value == 7).all() for value in net.state_dict().values())


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", ["mse", "minmax"])
@pytest.mark.parametrize("interval", ["full", "narrow"])
def test_every_width_round_trips(bits: int, per_channel: bool, method: Any, interval: Any) -> None:
    options: dict[str, Any] = {"bits": bits, "act_bits": 2, "per_channel": per_channel, "weight_method": method, "weight_range": interval}
    layer, copied = nn.Linear(40, 7, **options), nn.Linear(40, 7, **options)
    weight = images(np.random.default_rng(bits), 7, 40)
    weight[3] = 0
    weight[4] *= 1e-30
    layer.load_state_dict({"weight": weight, "bias": np.zeros(7)})
    copied.load_state_dict(layer.state_dict())
    assert_exact(copied.weight_int, layer.weight_int, "integers")
    assert_exact(copied.weight, layer.weight, "floats")


def test_errors_are_in_the_words_of_torch() -> None:
    state = float_state()
    del state["head.weight"]
    state["stem.2.weight"] = np.zeros(3)
    state["stem.0.bias"] = np.zeros(7)
    net = network()
    before = net.state_dict()
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    assert str(caught.value) == (
        "Error(s) in loading state_dict for Sequential:\n"
        '\tUnexpected key(s) in state_dict: "stem.2.weight". \n'
        '\tMissing key(s) in state_dict: "head.weight". \n'
        "\tsize mismatch for stem.0.bias: copying a param with shape torch.Size([7]) from checkpoint, "
        "the shape in current model is torch.Size([6])."
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    for name, value in net.state_dict().items():
        assert_exact(value, before[name], f"{name} after an error")
    state["stem.0.bias"] = np.array([0, 1, np.nan, 0, 0, 0])
    with pytest.raises(RuntimeError, match=r"stem\.0\.bias holds a NaN or an infinity"):
        net.load_state_dict(state, strict=False)
    del state["stem.0.bias"]
    found = net.load_state_dict(state, strict=False)
    assert found.missing_keys == ["stem.0.bias", "head.weight"]
    assert found.unexpected_keys == ["stem.2.weight"]
    assert_exact(net.state_dict()["stem.0.bias"], before["stem.0.bias"], "a bias that was not there")


def test_bias_that_a_layer_lacks_is_unexpected() -> None:
    layer = nn.Linear(3, 2, bias=False, bits=2)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "bias"'):
        layer.load_state_dict({"weight": np.zeros((2, 3)), "bias": np.zeros(2)})
    with pytest.raises(nn.LayerError, match="bias=a value, but the layer was made with bias=False"):
        layer.bias = np.zeros(2, np.float32)


def test_assignments() -> None:
    layer = nn.Conv2d(2, 3, 1, bits=8, weight_method="minmax")
    layer.weight = np.arange(6, dtype=np.float32).reshape(3, 2, 1, 1)
    assert_exact(layer.weight_int[:, :, 0, 0], np.array([[0, 127], [85, 127], [102, 127]], np.int8), "integers")
    with pytest.raises(nn.LayerError, match=r"weight has shape \[3, 2\], expected \[3, 2, 1, 1\]"):
        layer.weight = np.zeros((3, 2))
    with pytest.raises(nn.LayerError, match=r"bias has shape \[2\], expected \[3\]"):
        layer.bias = np.zeros(2)
    with pytest.raises(nn.LayerError, match="bias=None, but the layer was made with bias=True"):
        layer.bias = None
    with pytest.raises(ValueError, match="weight holds a NaN or an infinity"):
        layer.weight = np.full((3, 2, 1, 1), np.inf)
    with pytest.raises(ValueError, match="quantizer has 3 bits, but act_bits=8"):
        layer.quantizer = nn.Quantizer(3, 1.0)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight_int[0] = 1


def test_weights_are_drawn_once_and_by_seed() -> None:
    def drawn(seed: int) -> nn.Conv2d:
        nn.manual_seed(seed)
        return nn.Conv2d(16, 8, 3, bits=3)

    a = drawn(1)
    weight = a.weight
    assert_exact(a.weight, weight, "the same layer")
    assert_exact(drawn(1).weight, weight, "the same seed")
    assert not np.array_equal(drawn(2).weight, weight)
    assert np.abs(weight).max() == pytest.approx(1 / 12)
    assert set(np.unique(nn.Linear(64, 64, bits=1, act_bits=1).weight_int)) == {-1, 1}


def test_module_works_like_torch() -> None:
    net = network()
    assert [name for name, _ in net.named_modules()] == ["", "stem", "stem.0", "stem.1", "stem.2", "pool", "flat", "head"]
    assert [name for name, _ in net.named_children()] == ["stem", "pool", "flat", "head"]
    assert [type(m).__name__ for m in net.children()] == ["Sequential", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert net.get_submodule("stem.1") is net.stem[1]  # type: ignore[attr-defined]  # children are attributes
    with pytest.raises(AttributeError, match="Sequential has no attribute `body`"):
        net.get_submodule("body")
    assert [name for name, _ in net.named_parameters()] == [name for name in NAMES if "running" not in name]
    assert sum(p.size for p in net.parameters()) == 6 * 27 + 6 + 12 + 120
    seen: list[nn.Module] = []
    assert net.eval().train().apply(seen.append) is net
    assert seen[-1] is net
    assert len(seen) == 8
    assert len(net) == 4
    assert [*net][2] is net[2]
    assert [type(m).__name__ for m in net[1:3]] == ["AdaptiveAvgPool2d", "Flatten"]
    net.pool = nn.Identity()
    assert isinstance(net[1], nn.Identity)
    net.pool = None
    assert len(net) == 3
    del net.head  # type: ignore[attr-defined]  # children are attributes
    assert len(net) == 2

    class Empty(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.ReLU()  # without super().__init__()

    assert [name for name, _ in Empty().named_children()] == ["layer"]
    with pytest.raises(NotImplementedError, match=r'Module \[Empty\] is missing the required "forward" function'):
        Empty()(1)
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        net.add_module("x", 3)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="module name can"):
        net.add_module("a.b", nn.ReLU())
    with pytest.raises(ValueError, match="training mode is expected to be boolean"):
        net.train("yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"])
def test_copies(copied: Any) -> None:
    x = images(np.random.default_rng(1), 2, 3, 9, 9)
    net = network().calibrate([x])
    expected = net(x)
    other = copied(net)
    assert_exact(other(x), expected, "a copy")
    assert_exact(nn.compile(other, x)(x), nn.compile(net, x)(x), "a compiled copy")
    other.load_state_dict(float_state(5))
    assert not np.array_equal(other(x), expected)
    assert_exact(net(x), expected, "the original")


def test_from_float_reads_attributes() -> None:
    rng = np.random.default_rng(0)
    conv = SimpleNamespace(
        in_channels=4,
        out_channels=6,
        kernel_size=(3, 2),
        stride=(2, 1),
        padding="valid",
        dilation=(1, 2),
        groups=2,
        padding_mode="zeros",
        weight=images(rng, 6, 2, 3, 2),
        bias=images(rng, 6),
    )
    layer = nn.Conv2d.from_float(conv, bits=8, act_bits=4)
    assert (layer.stride, layer.padding, layer.dilation, layer.groups, layer.act_bits) == ((2, 1), "valid", (1, 2), 2, 4)
    assert np.abs(layer.weight - conv.weight).max() < 0.02
    assert layer.bias is not None
    assert_exact(layer.bias, conv.bias, "bias")
    linear = nn.Linear.from_float(SimpleNamespace(in_features=3, out_features=2, weight=images(rng, 2, 3), bias=None), bits=8)
    assert linear.bias is None


# With torch.


@pytest.fixture
def torch() -> Iterator[Any]:
    """The package, on one thread: its threads spin while others compute."""
    module = pytest.importorskip("torch")
    threads = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(threads)


def test_torch_layers_and_tensors(torch: Any) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect", stride=2),
        torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 5),
    )
    model.train()(torch.randn(16, 3, 20, 20))
    model.eval()
    ours = nn.Sequential(
        nn.Conv2d.from_float(model[0], bits=8),
        nn.BatchNorm2d.from_float(model[1]),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear.from_float(model[6], bits=8),
    )
    x = torch.randn(4, 3, 20, 20)
    ours.calibrate([x, (x * 0.9, "label")])
    with torch.no_grad():
        expected = model(x)
    found = ours(x)
    assert isinstance(found, torch.Tensor)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    compiled = nn.compile(ours, x)
    tensor, array = compiled(x), compiled(x.numpy())
    assert isinstance(tensor, torch.Tensor)
    assert isinstance(array, np.ndarray)
    assert_exact(tensor.numpy(), array, "a tensor and an array")
    assert_exact(compiled(x.double().requires_grad_()).numpy(), array, "float64, of a graph")
    second = nn.Sequential(*(copy.deepcopy(module) for module in ours))
    second.load_state_dict(model.state_dict())
    assert_exact(second(x).numpy(), found.numpy(), "torch's own state dict")
    with pytest.raises(TypeError, match=r"input has dtype torch\.int64: expected floats"):
        ours(torch.zeros(1, 3, 20, 20, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"input is a tensor on meta: ulp\.nn computes on the CPU"):
        ours(torch.zeros(1, 3, 20, 20, device="meta"))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_torch_agrees_on_geometry(torch: Any, ceil_mode: bool, mode: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        size = [int(i) for i in rng.integers(5, 12, 2)]
        kernel, stride, dilation = ([int(i) for i in rng.integers(1, high, 2)] for high in (4, 4, 3))
        padding = [int(rng.integers(0, k // 2 + 1)) for k in kernel]
        x = images(rng, 2, 4, *size)
        tensor = torch.from_numpy(x)
        pool: dict[str, Any] = {"padding": tuple(padding), "ceil_mode": ceil_mode, "stride": tuple(stride)}
        ours: nn.Module = nn.MaxPool2d(tuple(kernel), dilation=tuple(dilation), **pool)
        theirs = torch.nn.MaxPool2d(tuple(kernel), dilation=tuple(dilation), **pool)
        assert_exact(ours(x), theirs(tensor).numpy(), repr(theirs))
        include = bool(rng.integers(0, 2))
        average = nn.AvgPool2d(tuple(kernel), count_include_pad=include, **pool)
        theirs = torch.nn.AvgPool2d(tuple(kernel), count_include_pad=include, **pool)
        np.testing.assert_allclose(average.calibrate([x])(x), theirs(tensor).numpy(), atol=0.05, err_msg=repr(theirs))
        sides = tuple(int(i) for i in rng.integers(1, 9, 2))
        adaptive = nn.AdaptiveAvgPool2d(sides)
        np.testing.assert_allclose(
            adaptive.calibrate([x])(x), torch.nn.AdaptiveAvgPool2d(sides)(tensor).numpy(), atol=0.05, err_msg=str(sides)
        )
        options = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": 2, "padding_mode": mode}
        reference = torch.nn.Conv2d(4, 6, tuple(kernel), **options)
        conv = nn.Conv2d.from_float(reference, bits=8).calibrate([x])
        np.testing.assert_allclose(conv(x), reference(tensor).detach().numpy(), atol=0.08, err_msg=repr(reference))
        same = torch.nn.Conv2d(4, 6, tuple(kernel), padding="same", dilation=tuple(dilation), padding_mode=mode)
        conv = nn.Conv2d.from_float(same, bits=8).calibrate([x])
        np.testing.assert_allclose(conv(x), same(tensor).detach().numpy(), atol=0.08, err_msg=repr(same))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("Conv2d(3, 8, 3)", (1, 5, 8, 8)),
        ("Conv2d(4, 8, 3, groups=2)", (5, 8, 8)),
        ("Conv2d(3, 8, (5, 3), dilation=2)", (1, 3, 4, 4)),
        ("Linear(7, 2)", (5, 6)),
        ("MaxPool2d(3)", (1, 1, 2, 2)),
        ("BatchNorm2d(3)", (1, 4, 2, 2)),
        ("BatchNorm2d(3)", (4, 2)),
        ("Flatten(2)", (4, 2)),
        ("MaxPool2d(2, padding=2)", (1, 1, 4, 4)),
        ("Conv2d(4, 6, 3, groups=3)", ()),
        ("Conv2d(6, 4, 3, groups=3)", ()),
        ("Conv2d(6, 4, 3, padding='full')", ()),
        ("Conv2d(6, 4, 3, 2, padding='same')", ()),
        ("Dropout(1.5)", ()),
    ],
)
def test_errors_begin_with_the_words_of_torch(torch: Any, layer: str, shape: tuple[int, ...]) -> None:
    def message(library: Any, text: str, x: Any) -> str:
        with pytest.raises((RuntimeError, ValueError, IndexError)) as caught:
            eval(text, {}, vars(library))(x)
        return str(caught.value)

    theirs = message(torch.nn, f"{layer}.eval()", torch.zeros(shape))
    weighted = layer.startswith(("Conv2d", "Linear"))
    ours = message(nn, layer[:-1] + ", bits=3, dynamic=True)" if weighted else layer, np.zeros(shape, np.float32))
    assert ours.startswith(theirs[:45])


@pytest.mark.parametrize(
    "value", [np.full((3, 4), 1 + 2j), np.full((3, 4), "1"), np.zeros((3, 4), "m8[s]")], ids=["complex", "text", "time"]
)
def test_weights_are_real_numbers(value: Any) -> None:
    layer = nn.Linear(4, 3, bits=8)
    before = layer.weight
    with pytest.raises(nn.LayerError, match=f"weight has dtype {re.escape(str(value.dtype))}: expected real numbers"):
        layer.load_state_dict({"weight": value, "bias": np.zeros(3)})
    with pytest.raises(TypeError, match="expected real numbers"):
        layer.weight = value
    with pytest.raises(TypeError, match="weight_scale has dtype complex128"):
        nn.Linear.from_quantized(np.ones((3, 4), np.int8), 1j, bits=8)
    np.testing.assert_array_equal(layer.weight, before)


def test_complex_tensors_are_refused(torch: Any) -> None:
    with pytest.raises(nn.LayerError, match=r"bias has dtype torch\.complex64: expected real numbers"):
        nn.Linear(4, 3, bits=8).load_state_dict({"weight": torch.ones(3, 4), "bias": torch.ones(3) * 1j})


def test_batch_norm_without_bias(torch: Any) -> None:
    theirs = torch.nn.BatchNorm2d(3).eval()
    theirs.bias = None  # as BatchNorm2d(bias=False) of newer versions
    torch.nn.init.uniform_(theirs.running_mean)
    torch.nn.init.uniform_(theirs.weight)
    ours = nn.BatchNorm2d.from_float(theirs)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert list(ours.state_dict()) == ["weight", "running_mean", "running_var"]
    assert "bias=False" in repr(nn.BatchNorm2d(3, bias=False))
    assert nn.BatchNorm2d(3, affine=False).bias is None


def test_quantizers_of_layers_round_ties_to_even() -> None:
    odd = nn.Quantizer(8, 0.5, 3, ties_to_odd=True)
    assert odd.codes(np.array([0.25, 0.75, 1.25], np.float32)).tolist() == [4, 4, 6]  # rint(x / scale + zero)
    assert repr(odd) == repr(nn.Quantizer(8, 0.5, 3))
    with pytest.raises(ValueError, match="ties_to_odd"):
        nn.Quantize().quantizer = odd
    with pytest.raises(TypeError, match=r"scale='0\.5': expected a number"):
        nn.Quantizer(8, "0.5")  # type: ignore[arg-type]


def test_scalars(torch: Any) -> None:
    quantizer = nn.Quantizer(8, 0.5, 0)
    add, quantize = nn.Add(), nn.Quantize()
    add.quantizer = quantize.quantizer = quantizer
    layers = (nn.ReLU(), 2.25), (nn.ReLU6(), 2.25), (nn.Identity(), 2.25), (quantize, 2.0), (lambda x: add(x, x), 4.25)
    for layer, expected in layers:
        for x, kind in ((np.array(2.25, np.float32), np.ndarray), (torch.tensor(2.25), torch.Tensor)):
            result: Any = layer(x)  # type: ignore[no-untyped-call]  # a lambda is among them
            assert isinstance(result, kind)
            assert (result.shape, float(result)) == ((), expected)
    assert nn.Flatten(0)(torch.tensor(2.25)).shape == torch.nn.Flatten(0)(torch.tensor(2.25)).shape == (1,)
    with pytest.raises(nn.LayerError, match="Dimension out of range"):
        nn.Flatten(1)(np.float32(2))
    with pytest.raises(nn.LayerError, match="zero-dimensional tensor"):
        nn.Concat(0)(np.float32(2), np.float32(3))


def test_importing_ulp_does_not_import_nn_nor_torch() -> None:
    from interpreter import run_python

    program = "import sys, ulp; print('ulp.nn' in sys.modules); ulp.nn.ReLU(); print('ulp.nn' in sys.modules, 'torch' in sys.modules)"
    done = run_python(program, "-W", "error")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["False", "True", "False"], "")
    assert "nn" in ulp.__all__
    with pytest.raises(AttributeError, match="module 'ulp' has no attribute 'onn'"):
        _ = ulp.onn
