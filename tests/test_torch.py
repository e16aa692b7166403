"""`ulp.torch`: converted models give what the layers of `ulp.nn` give, and survive what torch does with modules."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import ulp
from ulp import nn

pytest.importorskip("torch", minversion="2.6")

import torch

import ulp.torch  # asks for torch
from ulp.torch import operators

# torch's own code warns about itself while it exports and traces.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"), pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    nn.manual_seed(0)
    yield
    torch._dynamo.reset()


class Block(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(channels)

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.norm(self.conv(x)))


def model() -> Any:
    """Layers "0", "3.conv", "4" and "7"; batch normalisations "1" and "3.norm"."""
    layers = (
        *(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), Block(8), torch.nn.Conv2d(8, 16, 3, groups=4)),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 5)),
    )
    made = torch.nn.Sequential(*layers)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.uniform_(module.bias)
    return made.eval()


def images(count: int = 4) -> Any:
    return torch.randn(count, 3, 12, 12)


def convert(module: Any, x: Any, **options: Any) -> Any:
    return ulp.torch.convert(module, **{"bits": 3, "calibrate": [x], "progress": False, **options})


def run(module: Any, x: Any) -> Any:
    with torch.no_grad():
        return module(x)


# The adapters.

GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    {"kernel_size": (2, 4), "padding": "same"},
    {"padding": "valid", "groups": 2},
    {"padding": 1, "padding_mode": "reflect", "bias": False},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("bits", "act_bits"), [(3, 3), (1, 2), (8, 8)])
def test_convolution_is_that_of_ulp_nn(geometry: dict[str, Any], bits: int, act_bits: int) -> None:
    layer = nn.Conv2d(4, 6, **{"kernel_size": 3, **geometry}, bits=bits, act_bits=act_bits)
    x = images()[:, [0, 1, 2, 0]]
    layer.calibrate(x, progress=False)
    adapter = ulp.torch.Conv2d(layer)
    assert np.array_equal(run(adapter, x).numpy(), layer(x.numpy()))
    assert np.array_equal(run(adapter, x[0]).numpy(), layer(x[0].numpy()))
    assert np.array_equal(adapter.weight.numpy(), layer.weight)
    assert repr(adapter) == repr(layer)


@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 24), (24,), (0, 24)])
def test_product_is_that_of_ulp_nn(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(24, 7, bits=4).calibrate(np.random.default_rng(0).standard_normal((9, 24), np.float32), progress=False)
    x = torch.randn(shape)
    assert np.array_equal(run(ulp.torch.Linear(layer), x).numpy(), layer(x.numpy()))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("padding", [0, 2, "same"])
@pytest.mark.parametrize("groups", [1, 3])
def test_convolution_of_sequences_is_that_of_ulp_nn(groups: int, padding: Any, padding_mode: str) -> None:
    stride = 1 if padding == "same" else 2
    conv = torch.nn.Conv1d(6, 9, 4, stride, padding, 2, groups, padding_mode=padding_mode)
    norm = torch.nn.BatchNorm1d(9)
    torch.nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    source = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Conv1d(9, 9, 1), norm).eval()
    x = torch.randn(3, 6, 21)
    low = convert(source, x)
    assert [(c.kind, c.folded) for c in low.ulp_report.converted] == [("Conv1d", None), ("Conv1d", "3")]
    assert not low.ulp_report.left
    layer = nn.Conv1d.from_float(conv, bits=8).calibrate([x.numpy()], progress=False)
    assert torch.equal(run(low[0], x), torch.from_numpy(layer(x.numpy())))
    assert torch.equal(run(low[0], x[1]), run(low[0], x)[1])
    assert run(low, x).shape == run(source, x).shape
    eight = convert(source, x, bits=8)
    assert (run(eight, x) - run(source, x)).abs().max() < 0.1 * run(source, x).abs().max()
    assert torch.equal(run(torch.compile(low[0], backend="eager", fullgraph=True), x), run(low[0], x))
    assert torch.equal(run(pickle.loads(pickle.dumps(low)), x), run(low, x))
    with pytest.raises(RuntimeError, match="input to Conv1d"):
        low[0](x[None])


@pytest.mark.parametrize("signed", [None, False, True])
def test_dynamic_ranges(signed: bool | None) -> None:
    layer = nn.Conv2d(3, 4, 3, bits=4, act_signed=signed, dynamic=True)
    adapter = ulp.torch.Conv2d(layer)
    for x in (images(), 9 * images().abs()):
        assert np.array_equal(run(adapter, x).numpy(), layer(x.numpy()))


def test_weights_take_their_bits() -> None:
    layer = nn.Conv2d(16, 32, 3, bits=3)
    assert ulp.torch.Conv2d(layer).packed_weight.nbytes == 16 * 32 * 9 * 3 // 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_result_has_the_dtype_of_the_input(dtype: Any) -> None:
    x = images()
    low = convert(model(), x)
    first = low[0]
    given = x.to(dtype)
    assert torch.equal(run(first, given), run(first, given.float()).to(dtype))
    scale = first.weight_scale.clone()
    low.to(dtype)
    assert torch.equal(first.weight_scale, scale)
    assert first.packed_weight.dtype == torch.uint8


def test_any_strides() -> None:
    x = images()
    low = convert(model(), x)
    assert torch.equal(run(low, x.to(memory_format=torch.channels_last)), run(low, x))
    assert torch.equal(run(low, x.transpose(2, 3)), run(low, x.transpose(2, 3).contiguous()))


def test_what_is_made_from_buffers_goes_with_them() -> None:
    x = images()
    low = convert(model(), x)
    run(low, x)
    keys = [layer.packed_weight.untyped_storage()._cdata for layer in low.modules() if hasattr(layer, "packed_weight")]
    assert all(key in operators._entries for key in keys)
    del low
    gc.collect()  # tracing leaves cycles behind
    run(ulp.torch.Linear(nn.Linear(3, 3, bits=2, dynamic=True)), torch.ones(1, 3))
    assert not any(key in operators._entries for key in keys)


def test_changed_buffers_are_noticed() -> None:
    layer = nn.Linear(3, 2, bits=4, dynamic=True)
    adapter = ulp.torch.Linear(layer)
    x = torch.ones(1, 3)
    before = run(adapter, x)
    adapter.weight_scale.mul_(2)
    assert torch.equal(run(adapter, x) - adapter.bias, 2 * (before - adapter.bias))


def test_many_threads_at_once() -> None:
    x = images(16)
    low = convert(model(), x)
    expected = [run(copy.deepcopy(low), x[i : i + 1]) for i in range(16)]
    found: list[Any] = [None] * 16

    def work(i: int) -> None:
        found[i] = run(low, x[i : i + 1])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# Conversion.


def test_report_and_structure() -> None:
    source = model()
    x = images()
    low = convert(source, x)
    assert [(c.name, c.kind, c.bits, c.act_bits, c.folded, c.calibrated) for c in low.ulp_report.converted] == [
        ("0", "Conv2d", 8, 8, "1", True),
        ("3.conv", "Conv2d", 3, 3, "3.norm", True),
        ("4", "Conv2d", 3, 3, None, True),
        ("7", "Linear", 8, 8, None, True),
    ]
    assert low.ulp_report.left == {}
    assert "3.conv: Conv2d W3A3, 3.norm folded in" in str(low.ulp_report)
    assert isinstance(low[3].conv, ulp.torch.Conv2d)
    assert isinstance(low[3].norm, torch.nn.Identity)
    assert type(source[0]) is torch.nn.Conv2d


def test_same_as_the_network_in_ulp_nn() -> None:
    source = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(800, 4)).eval()
    x = images()
    low = convert(source, x, bits=4, act_bits=5, first_bits=None, last_bits=None)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bits=4, act_bits=5), nn.ReLU(), nn.Flatten(), nn.Linear(800, 4, bits=4, act_bits=5))
    network.load_state_dict({name: value.numpy() for name, value in source.state_dict().items()})
    first, last = network.get_submodule("0"), network.get_submodule("3")
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Linear)
    first.quantizer = nn.Quantizer(5, float(low[0].act_scale), int(low[0].act_zero))
    last.quantizer = nn.Quantizer(5, float(low[3].act_scale), int(low[3].act_zero))
    assert np.array_equal(run(low, x).numpy(), network(x.numpy()))
    # ulp.nn quantizes the weights first and calibrates then: behind the first layer its ranges may differ a little.
    network.calibrate(x.numpy(), progress=False)
    assert first.quantizer.scale == float(low[0].act_scale)
    assert last.quantizer.scale == pytest.approx(float(low[3].act_scale), rel=0.2)


def test_eight_bits_are_near_the_float_model() -> None:
    source, x = model(), images(16)
    expected = run(source, x)
    for fold in (True, False):
        low = convert(source, x, bits=8, fold=fold)
        assert (run(low, x) - expected).abs().max() < 0.02 * expected.abs().max()
        assert low.ulp_report.left == ({} if fold else {"1": "fold=False", "3.norm": "fold=False"})


def test_in_place_or_a_copy() -> None:
    source, x = model().train(), images()
    state = copy.deepcopy(source.state_dict())
    low = convert(source, x)
    assert source.training
    assert not low.training
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in state.items())
    assert convert(source, x, inplace=True) is source
    assert torch.equal(run(source, x), run(low, x))


def test_a_layer_by_itself() -> None:
    source = torch.nn.Linear(6, 2)
    x = torch.randn(8, 6)
    low = convert(source, x, first_bits=None, last_bits=None)
    assert isinstance(low, ulp.torch.Linear)
    assert low.ulp_report.converted[0].name == ""


def test_first_and_last_by_the_order_of_calls() -> None:
    class Backwards(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.middle, self.first = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.last(self.middle(self.first(x)))

    low = convert(Backwards(), torch.randn(5, 4), bits=3, first_bits=8, last_bits=5)
    assert (low.first.bits, low.middle.bits, low.last.bits) == (8, 3, 5)
    assert [c.name for c in low.ulp_report.converted] == ["first", "middle", "last"]
    low = ulp.torch.convert(Backwards(), bits=3, first_bits=8, last_bits=5)
    assert (low.last.bits, low.middle.bits, low.first.bits) == (8, 3, 5)


class Many(torch.nn.Module):
    """Runs nothing; holds layers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.up = torch.nn.ConvTranspose2d(3, 4, 3)
        self.line = torch.nn.Conv1d(3, 4, 3)
        self.attention = torch.nn.MultiheadAttention(4, 2)
        self.encoder = torch.nn.TransformerEncoderLayer(4, 2, 8)
        self.hooked = torch.nn.Linear(4, 4)
        self.hooked.register_forward_hook(lambda *_: None)
        self.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 4))
        self.recurrent = torch.nn.LSTM(4, 4)
        self.norm = torch.nn.BatchNorm2d(4)


def test_what_cannot_be_converted_is_left_and_named() -> None:
    low = ulp.torch.convert(Many(), bits=3)
    assert [c.name for c in low.ulp_report.converted] == ["recurrent", "conv", "line"]
    assert low.ulp_report.left == {
        "up": "ConvTranspose2d is not supported",
        "attention.out_proj": "NonDynamicallyQuantizableLinear is a subclass of Linear",
        "encoder.self_attn.out_proj": "NonDynamicallyQuantizableLinear is a subclass of Linear",
        "encoder.linear1": "TransformerEncoderLayer reads the weights itself",
        "encoder.linear2": "TransformerEncoderLayer reads the weights itself",
        "hooked": "it has hooks",
        "normed": "ParametrizedLinear is a subclass of Linear",
        "norm": "torch.fx cannot trace what holds it",
    }
    x = torch.randn(5, 2, 4)
    assert run(low.encoder, x).shape == x.shape


def is_four(_: str, layer: Any) -> bool:
    return bool(layer.weight.shape[0] == 5)


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("3", ["3.conv"]),
        (["0", "3.conv"], ["0", "3.conv"]),
        (torch.nn.Linear, ["7"]),
        (is_four, ["7"]),
        ((torch.nn.Linear, "4"), ["4", "7"]),
    ],
    ids=["part", "names", "type", "function", "several"],
)
def test_skip(skip: Any, left: list[str]) -> None:
    report = convert(model(), images(), skip=skip).ulp_report
    assert [name for name, reason in report.left.items() if reason == "as `skip` says"] == left
    assert len(report.converted) + len(left) == 4


def test_norms_that_stay() -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.a = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
            self.read, self.b = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
            self.c = torch.nn.BatchNorm2d(3)

        def forward(self, x: Any) -> Any:
            y = self.read(self.a(self.twice(self.twice(x))))
            return self.c(torch.relu(y + self.b(y)))

    source, x = Shared().eval(), images()
    low = convert(source, x, bits=8)
    assert set(low.ulp_report.left) == {"a", "b", "c"}
    assert low.ulp_report.left["a"] == "it or its Conv2d is used more than once"
    assert (run(low, x) - run(source, x)).abs().max() < 0.1


def test_parts_that_can_be_traced_are_folded() -> None:
    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.conv, self.norm = Block(3), torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)

        def forward(self, x: Any) -> Any:
            return self.body(x) if x.sum() > 1e9 else self.norm(self.conv(self.body(x)))

    source, x = Branches().eval(), images()
    low = convert(source, x, bits=8)
    assert [(c.name, c.folded) for c in low.ulp_report.converted] == [("body.conv", "body.norm"), ("conv", None)]
    assert low.ulp_report.left == {"norm": "torch.fx cannot trace what holds it"}
    assert (run(low, x) - run(source, x)).abs().max() < 0.1


def test_a_layer_in_two_places_is_converted_once() -> None:
    shared = torch.nn.Linear(4, 4)
    low = convert(torch.nn.Sequential(shared, torch.nn.ReLU(), shared), torch.randn(3, 4))
    assert low[0] is low[2]
    assert len(low.ulp_report.converted) == 1


@pytest.mark.parametrize(
    "batches",
    [lambda x: x, lambda x: [x], lambda x: iter([(x, "labels")]), lambda x: [{"input": x}], lambda x: lambda module: module(x)],
    ids=["tensor", "list", "loader", "keywords", "function"],
)
def test_calibration_takes(batches: Callable[[Any], Any]) -> None:
    source, x = model(), images()
    low = ulp.torch.convert(source, bits=3, calibrate=batches(x))
    assert torch.equal(run(low, x), run(convert(source, x), x))


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_calibration_methods(method: str) -> None:
    x = torch.linspace(0, 100, 10_001).view(-1, 1)
    low = convert(torch.nn.Linear(1, 1), x, bits=2, method=method, percentile=90, first_bits=None, last_bits=None)
    reach = float(low.act_scale) * 3
    assert reach == pytest.approx({"minmax": 100, "percentile": 90, "mse": 100 * 3 / 3.5}[method], rel=0.02)


def test_layers_that_no_batch_reaches() -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.used(x)

    low = convert(Half(), torch.randn(4, 3))
    assert [(c.name, c.calibrated) for c in low.ulp_report.converted] == [("used", True), ("unused", False)]
    assert "unused: Linear W8A8, not calibrated" in str(low.ulp_report)
    with pytest.raises(nn.LayerError, match="range of this layer's input is not known"):
        run(low.unused, torch.randn(4, 3))


# Wrong use.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 9}, ValueError, "bits"),
        ({"act_bits": 0}, ValueError, "act_bits"),
        ({"bits": 1}, TypeError, "act_bits is needed where bits=1"),
        ({"first_bits": 16}, ValueError, "first_bits"),
        ({"method": "best"}, ValueError, "method='best'"),
        ({"percentile": 10}, ValueError, "percentile=10"),
        ({"dynamic": True}, ValueError, "dynamic=True with calibrate"),
        ({"dynamic": "row"}, ValueError, "dynamic='row' with calibrate"),
        ({"dynamic": "rows"}, ValueError, "dynamic='rows': expected True, False or 'row'"),
        ({"dynamic": 2}, TypeError, "dynamic=2"),
        ({"dynamic": "row", "calibrate": None, "act_signed": True}, ValueError, "dynamic='row': the range of each row"),
        ({"calibrate": []}, ValueError, "calibrate is empty"),
        ({"skip": "8"}, ValueError, "no module '8'; it has 0, 1, 2, 3, 3.conv"),
        ({"skip": [3]}, TypeError, "3 is neither a name"),
        ({"weight_method": "best"}, ValueError, "weight_method"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        convert(model(), images(), **options)


def test_wrong_model_and_samples() -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        ulp.torch.convert(nn.Sequential(), bits=3)
    source = model()
    with pytest.raises(ValueError, match="NaN"):
        convert(source, images() * float("nan"), inplace=True)
    assert type(source[0]) is torch.nn.Conv2d
    assert not source[0]._forward_pre_hooks


def test_inputs_that_are_refused() -> None:
    x = images()
    low = convert(model(), x)
    with pytest.raises(RuntimeError, match=r"for inference only.*torch.no_grad"):
        low(x.clone().requires_grad_())
    assert torch.equal(run(low, x.clone().requires_grad_()), low(x))
    with torch.inference_mode():
        assert torch.equal(low(x), low(x.clone()))
    with pytest.raises(nn.LayerError, match="channels"):
        run(low, x[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        run(low, x * float("nan"))
    with pytest.raises(TypeError, match="floats"):
        run(low, x.int())


# What torch does with modules.


def test_copies_and_pickles() -> None:
    x = images()
    low = convert(model(), x)
    expected = run(low, x)
    whole = io.BytesIO()
    torch.save(low, whole)
    whole.seek(0)
    for other in (copy.deepcopy(low), pickle.loads(pickle.dumps(low)), torch.load(whole, weights_only=False)):
        assert torch.equal(run(other, x), expected)
        assert other.ulp_report == low.ulp_report


@pytest.mark.parametrize("inference", [False, True])
def test_state_dict_makes_another_model_the_same(inference: bool) -> None:
    x = images()
    low = convert(model(), x)
    file = io.BytesIO()
    torch.save(low.state_dict(), file)
    file.seek(0)
    with torch.inference_mode(inference):
        other = convert(model(), 3 * images())
        assert not torch.equal(other(x), low(x))
        other.load_state_dict(torch.load(file))
        assert torch.equal(other(x), low(x))
    fresh = ulp.torch.convert(model(), bits=3)
    with pytest.raises(nn.LayerError, match="load a state dict"):
        run(fresh, x)
    fresh.load_state_dict(low.state_dict())
    assert torch.equal(run(fresh, x), run(low, x))


def test_state_dict_of_other_bits_is_refused() -> None:
    x = images()
    state = convert(model(), x).state_dict()
    with pytest.raises(RuntimeError, match=r"3.conv.act_bits is 3 in the state dict, 4 in this model"):
        ulp.torch.convert(model(), bits=3, act_bits=4).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"size mismatch for 4.packed_weight"):
        ulp.torch.convert(model(), bits=4, act_bits=3).load_state_dict(state)


def test_torch_compile_does_not_look_into_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that torch.compile has given up runs as Python, and then the functions that it calls are compiled, one by one."""
    import torch._dynamo

    converted = ulp.torch.convert(model().eval(), bits=4, calibrate=[torch.randn(4, 3, 16, 16)])
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = converted(x)
    looked_at: list[str] = []

    def given_up(graph: Any, inputs: Any) -> Any:
        stack = [str(node.meta.get("stack_trace")) for node in graph.graph.nodes]
        looked_at.extend(text for text in stack if "operators.py" in text or "/ulp/nn/" in text)
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(operators, "_entries", {})  # the layers of ulp.nn are made again, within the operators
    torch._dynamo.utils.counters.clear()
    with torch.no_grad(), torch._dynamo.config.patch(suppress_errors=True):
        torch.testing.assert_close(torch.compile(lambda x: converted(x) + 1, backend=given_up)(x), expected + 1)
    assert not looked_at
    assert torch._dynamo.utils.counters["frames"]["total"] <= 8
    assert not any("operators.py" in str(reason) for reason in torch._dynamo.utils.counters["graph_break"])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph(backend: str, dynamic: bool) -> None:
    x = images()
    low = convert(model(), x)
    compiled = torch.compile(low, fullgraph=True, backend=backend, dynamic=dynamic)
    for n in (4, 2):
        assert torch.equal(run(compiled, x[:n]), run(low, x[:n]))


def test_export_save_and_load() -> None:
    x = images()
    low = convert(model(), x, skip="4")  # a part stays in float
    with torch.no_grad():
        program = torch.export.export(low, (x,), dynamic_shapes=({0: torch.export.Dim("images")},))
    calls = [str(node.target) for node in program.graph.nodes if "ulp" in str(node.target)]
    assert calls == ["ulp.conv2d.default", "ulp.conv2d.default", "ulp.linear.default"]
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for n in (4, 3):
        assert torch.equal(run(loaded, x[:n]), run(low, x[:n]))


def test_symbolic_and_jit_traces() -> None:
    x = images()
    low = convert(model(), x)
    assert torch.equal(run(torch.fx.symbolic_trace(low), x), run(low, x))
    with torch.no_grad():
        assert torch.equal(torch.jit.trace(low, x)(x[:2]), low(x[:2]))


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (3, 9, 8), (0, 3, 9, 8)], ids=str)
def test_operators_keep_torchs_rules(shape: tuple[int, ...]) -> None:
    layer = ulp.torch.Conv2d(nn.Conv2d(3, 4, 3, (2, 1), "valid", bits=3, dynamic=True))
    x = torch.randn(shape)
    geometry = layer.stride, layer._sides, layer.dilation, layer.groups, layer.padding_mode
    torch.library.opcheck(torch.ops.ulp.conv2d.default, (*layer._arguments(x), *geometry))
    for dynamic, of_rows in ((True, False), ("row", True)):
        product = ulp.torch.Linear(nn.Linear(8, 4, bits=3, dynamic=dynamic))  # type: ignore[arg-type]
        torch.library.opcheck(torch.ops.ulp.linear.default, (*product._arguments(x), of_rows))


def test_rows_have_ranges_of_their_own() -> None:
    """As layers of ulp.nn one after another, in torch.compile's and torch.export's graphs, and in a file but for float sums."""
    torch.manual_seed(3)
    source = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.GELU(), torch.nn.Linear(32, 5)).eval()
    x = torch.randn(3, 7, 24) * torch.logspace(-2, 2, 7)[:, None]
    low = ulp.torch.convert(source, bits=4, act_bits=8, last_bits=None, dynamic="row", progress=False)
    first, last = (nn.Linear.from_float(source[i], bits=bits, act_bits=8, dynamic="row") for i, bits in ((0, 8), (2, 4)))
    expected = last(torch.nn.functional.gelu(torch.from_numpy(first(x.numpy()))).numpy())
    with torch.no_grad():
        np.testing.assert_array_equal(low(x).numpy(), expected)
        np.testing.assert_array_equal(torch.compile(low, fullgraph=True, backend="eager")(x).numpy(), expected)
        np.testing.assert_array_equal(torch.export.export(low, (x,)).module()(x).numpy(), expected)
        assert torch.equal(pickle.loads(pickle.dumps(low))(x), low(x))


def test_meta_tensors_have_shapes_only() -> None:
    x = images()
    low = convert(model(), x).to("meta")
    assert run(low, x.to("meta")).shape == (4, 5)
    with pytest.raises(RuntimeError, match="expected input of 3 channels, but got 2"):
        run(low, x[:, :2].to("meta"))


def test_layers_take_their_input_by_torchs_name() -> None:
    class Keyword(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(10, 2)

        def forward(self, x: Any) -> Any:
            return self.linear(input=self.conv(input=x))

    x = images(8)
    source = Keyword()
    low = convert(source, x, bits=8)
    assert len(low.ulp_report.converted) == 2
    assert (run(low, x) - run(source, x)).abs().max() < 0.1


def test_batch_normalisations_without_bias_are_folded() -> None:
    source = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    torch.nn.init.uniform_(source[1].running_mean)
    torch.nn.init.uniform_(source[1].weight)
    source[1].bias = None  # as BatchNorm2d(bias=False) of newer versions
    x = images(8)
    low = convert(source, x, bits=8)
    assert low.ulp_report.converted[0].folded == "1"
    assert (run(low, x) - run(source, x)).abs().max() < 0.1


def test_modules_with_weights_of_their_own_are_named() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.ones(4, 4))

        def forward(self, x: Any) -> Any:
            return x @ self.matrix

    source = torch.nn.Sequential(torch.nn.Embedding(5, 4), Own(), torch.nn.LayerNorm(4), torch.nn.PReLU(), torch.nn.GRUCell(4, 4))
    report = ulp.torch.convert(source, bits=8).ulp_report
    assert report.left == {"0": "Embedding is not supported", "1": "Own is not supported", "4": "GRUCell is not supported"}


def test_old_names_of_pickled_classes() -> None:
    import importlib

    for old, new, names in (
        ("ulp._torch_layers", "ulp.torch.layers", ("Conv2d", "Linear")),
        ("ulp._quantized.layers", "ulp.torch.quantized.found", ("Surrounded",)),
        ("ulp._quantized.integer_linear", "ulp.torch.quantized.integer_linear", ("FloatInput",)),
        ("ulp._quantized.torch_ao", "ulp.torch.quantized.torch_ao", ("Static", "Dynamic")),
        ("ulp._quantized.torchao", "ulp.torch.quantized.torchao", ("Int8Rows", "IntxTokens")),
        ("ulp.torch", "ulp.torch.report", ("Report", "Converted")),
    ):
        for name in names:
            assert getattr(importlib.import_module(old), name) is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layers_give_about_what_torch_gives(kind: Any, batch_first: bool) -> None:
    torch.manual_seed(0)
    source = kind(10, 16, 2, batch_first=batch_first, bidirectional=True).eval()
    low = ulp.torch.convert(source, bits=8)
    x, first = torch.randn(3, 5, 10), torch.randn(4, 3 if batch_first else 5, 16) / 2
    states = (first, first / 2) if kind is torch.nn.LSTM else first
    with torch.no_grad():
        for given in (None, states):
            (want, last), (got, found) = source(x, given), low(x, given)
            torch.testing.assert_close(got, want, rtol=0, atol=0.05)
            torch.testing.assert_close(found, last, rtol=0, atol=0.05)
        again = ulp.torch.convert(kind(10, 16, 2, batch_first=batch_first, bidirectional=True), bits=8)
        again.load_state_dict(low.state_dict())
        assert torch.equal(again(x)[0], low(x)[0])
    sequences = torch.nn.utils.rnn.pack_padded_sequence(x, [2] * (3 if batch_first else 5), batch_first=batch_first)
    with pytest.raises(TypeError, match="takes a padded tensor, not a PackedSequence"):
        low(sequences)


def test_operators_are_known_on_gpus() -> None:
    """Registered for torch's dispatcher, and of the right shapes without values; the layers there are tested in test_cuda_layers.py."""
    from torch._subclasses import FakeTensorMode

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5))
    low = ulp.torch.convert(model, bits=4, calibrate=torch.randn(4, 3, 8, 8), progress=False)
    for name in ("conv2d", "linear"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ulp::{name}", "CUDA")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        y = low(torch.empty(2, 3, 8, 8, device="cuda"))
    assert (y.device.type, y.shape) == ("cuda", (2, 5))
