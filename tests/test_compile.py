"""`ulp.compile` of torch models, of floats and quantized by others, against the models; and `torch.compile(backend="ulp")`."""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ulp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", minversion="2.8")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    ulp_torch = importlib.import_module("ulp.torch")
    attention = importlib.import_module("ulp._bridge.attention")
    translations = importlib.import_module("ulp._bridge.translations")

from onnx import numpy_helper
from onnx_models import quantized as by_onnxruntime
from onnx_models import small_network

nn: Any = torch.nn
Module: Any = nn.Module

# These libraries, and torch about itself, warn of what they will change.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def _translations() -> Iterator[None]:
    """torch compiles its translations anew for every export, which takes longer than the small models here."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # its operators have translations, too
    registration = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    original, made = registration.from_torchlib, {}

    def from_torchlib(opset_version: int) -> Any:
        if opset_version not in made:
            made[opset_version] = original(opset_version)
        registry = copy.copy(made[opset_version])
        registry.functions = {operator: list(metas) for operator, metas in registry.functions.items()}
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "from_torchlib", staticmethod(from_torchlib))
        yield


def _random(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


class _Block(Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.down(x))


class _ResNet(Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = _Block(8, 16, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        x = self.pool(self.block(self.stem(x)))
        return self.fc(x.view(x.size(0), -1))


def _resnet() -> Any:
    torch.manual_seed(0)
    network = _ResNet().train()
    with torch.no_grad():
        for seed in range(3):
            network(_random(32, 1, 8, 8, seed=seed))
    return network


_X = _random(16, 1, 8, 8, seed=9)


@pytest.fixture(scope="module")
def floats() -> Any:
    """A model of floats, left in training."""
    return _resnet()


@pytest.fixture(scope="module")
def compiled(floats: Any) -> Any:
    """Its network at W4A4, from an example of one image."""
    return ulp.compile(floats, _X[:1], bits={"*": "W4A4", "fc": 8}, calibrate=[(_X, None)], progress=False)


@pytest.fixture(scope="module")
def converted(floats: Any) -> Any:
    """The model with layers of ulp.torch."""
    return ulp_torch.convert(floats, bits=4, calibrate=[_X], progress=False)


def _reference(model: Any, *args: Any, **kwargs: Any) -> Any:
    """What the model in evaluation gives."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(*args, **kwargs)


def test_a_float_model_becomes_integers(floats: Any, compiled: Any) -> None:
    assert floats.training
    assert floats.block.bn1.training
    assert compiled.integer
    bits = {row.name: row.bits for row in compiled.layers if row.op_type in ("Conv", "Gemm")}
    assert list(bits) == ["stem.0", "block.conv1", "block.conv2", "block.down", "fc"]
    assert bits["block.conv1"] == (4, 4)
    assert bits["fc"] == (8, 8)
    expected = _reference(floats, _X)
    noise = (compiled(_X) - expected).square().sum() / (expected - expected.mean(dim=0)).square().sum()
    assert noise < 0.5
    assert {row.runs_in for row in compiled.profile(_X.numpy()[:2], runs=1)} == {"integers"}


def test_tensors_and_arrays_of_any_batch(compiled: Any) -> None:
    y = compiled(_X)
    assert isinstance(y, torch.Tensor)
    assert tuple(y.shape) == (16, 10)
    np.testing.assert_array_equal(compiled(_X.numpy()), y.numpy())
    np.testing.assert_array_equal(compiled(x=_X[:3].double()).numpy(), y[:3].numpy())
    np.testing.assert_array_equal(compiled(_X[:5].requires_grad_()).numpy(), y[:5].numpy())


def test_saved_and_exported(compiled: Any, tmp_path: Path) -> None:
    y = compiled(_X).numpy()
    compiled.save(tmp_path / "model.ulp")
    np.testing.assert_array_equal(ulp.load(tmp_path / "model.ulp")(_X.numpy()), y)
    for form in ("qdq", "qonnx"):
        ulp.export(compiled, tmp_path / "model.onnx", format=form)
        loaded = ulp.load(tmp_path / "model.onnx", tune=False, progress=False)
        assert loaded.integer
        np.testing.assert_array_equal(loaded(_X.numpy()), y)
        # The same from what the quantizer gives.
        ulp.export(compiled.quantized, tmp_path / "again.onnx", format=form)
        assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


class _Several(Module):
    """Inputs by position and by name, an argument that is no tensor, results in a tuple or a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 4)

    def forward(self, x: Any, pair: bool, *, mask: Any = None) -> Any:
        y = self.b(torch.relu(self.a(x)))
        y = y if mask is None else y * mask
        return (y, y.sum(1)) if pair else {"y": y, "x": x + 1}


def test_several_inputs_and_results(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Several()
    x, mask = _random(3, 6), _random(3, 4, seed=1)
    network = ulp.compile(model, (x, True, {"mask": mask}), bits="float", progress=False)
    x, mask = _random(5, 6, seed=2), _random(5, 4, seed=3)
    for found in (network(x, mask), network(x, mask=mask)):
        assert isinstance(found, tuple)
        for ours, theirs in zip(found, _reference(model, x, True, mask=mask), strict=True):
            torch.testing.assert_close(ours, theirs)
    network.save(tmp_path / "model.ulp")
    again = ulp.load(tmp_path / "model.ulp")(x.numpy(), mask.numpy())
    assert isinstance(again, tuple)
    np.testing.assert_array_equal(again[1], network(x, mask)[1].numpy())
    network = ulp.compile(model.half(), (x.half(), False), bits="float", progress=False)
    found = network(x.numpy())
    assert list(found) == ["y", "x"]
    torch.testing.assert_close(torch.from_numpy(found["y"]), _reference(model.float(), x, False)["y"], rtol=1e-4, atol=1e-4)


class _OneByOne(Module):
    """A model that computes with its batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x: Any) -> Any:
        return self.linear(x.reshape(1, 64))


def test_a_batch_that_the_model_fixes() -> None:
    model = _OneByOne()
    network = ulp.compile(model, _X[:1], bits="float", progress=False)
    torch.testing.assert_close(network(_X[:1]), _reference(model, _X[:1]))
    with pytest.raises(ValueError, match="shape"):
        network(_X[:2])


class _Stateful(Module):
    """Changes its input and its buffers when it is called: in place, and another tensor for the old one."""

    others: Any

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("others", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Any) -> Any:
        x.mul_(2)
        self.calls += 1
        self.others = self.others + 1
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def test_neither_the_model_nor_the_example_is_changed() -> None:
    model, example = _Stateful().eval(), _X[:2].clone()
    before = model.calls
    network = ulp.compile(model, example, bits=8, calibrate=_X, progress=False)
    assert torch.equal(example, _X[:2])
    assert model.calls is before
    assert (float(model.calls), int(model.others)) == (0, 0)
    np.testing.assert_allclose(network(_X), _reference(model, _X.clone()), atol=0.02)


def test_models_that_torch_compiled_are_taken_out_of_that() -> None:
    model = torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), backend=lambda *_: pytest.fail("it was compiled"))
    network = ulp.compile(model, _X[:1], bits=8, calibrate=_X, progress=False)
    np.testing.assert_allclose(network(_X), _reference(model._orig_mod, _X), atol=0.02)


class _TwoInputs(Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x: Any, z: Any) -> Any:
        return self.a(x) + self.b(z)


def test_inputs_of_different_batches_are_named() -> None:
    x, z = _random(8, 4), _random(8, 5, seed=1)
    with pytest.raises(ValueError, match=r"calibrate\[1\]: side 0 of input 'z' is 3, and that of 'x' 8: the model calls both 'batch'"):
        ulp.compile(_TwoInputs(), (x[:2], z[:2]), bits=8, calibrate=[(x, z), (x, z[:3])], progress=False)


class _NoOnnx(Module):
    def forward(self, x: Any) -> Any:
        return torch.linalg.eigvals(x).real


class _Nested(Module):
    def forward(self, x: Any) -> Any:
        return {"a": (x, x)}


def test_what_cannot_be_compiled_is_named(floats: Any, compiled: Any, converted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = _X[:1]
    with pytest.raises(ValueError, match=r"model is of floats: pass bits=4 .* calibrate=batches"):
        ulp.compile(floats, x)
    with pytest.raises(ValueError, match="bits= without calibrate="):
        ulp.compile(floats, x, bits=4)
    with pytest.raises(ValueError, match="calibrate= with bits='float'"):
        ulp.compile(floats, x, bits="float", calibrate=x)
    with pytest.raises(TypeError, match=r"no argument 'bit'.*ranges"):
        ulp.compile(floats, x, bit=4)
    with pytest.raises(TypeError, match="example is missing"):
        ulp.compile(floats, bits=4, calibrate=x)
    with pytest.raises(TypeError, match="example is int without a tensor"):
        ulp.compile(floats, 3, bits=4, calibrate=x)
    with pytest.raises(ValueError, match="fits no layer; the model has fc"):
        ulp.compile(nn.Sequential(OrderedDict(fc=nn.Linear(2, 2))), x[0, 0, :2, :2], bits={"head": 4}, calibrate=x[0, 0, :2, :2])
    with pytest.raises(ValueError, match="max_ms= with bits=4"):
        ulp.compile(nn.Linear(2, 2), x[0, 0, :2, :2], bits=4, calibrate=x[0, 0, :2, :2], max_ms=1)
    with pytest.raises(ValueError, match="hint='fast'"):
        ulp.compile(floats, x, bits=4, calibrate=x, hint="fast")  # type: ignore[arg-type]
    with pytest.raises(ulp.onnx.OnnxError, match=r"fails on the example, x \[1, 2, 8, 8\]: RuntimeError: .*channels"):
        ulp.compile(floats, _random(1, 2, 8, 8), bits=4, calibrate=x)
    assert floats.training
    with pytest.raises(ulp.onnx.OnnxError, match="no ONNX form of the operator aten::linalg_eig"):
        ulp.compile(_NoOnnx(), _random(3, 3), bits="float")
    with pytest.raises(ulp.onnx.OnnxError, match="returns a dict with tuple in it"):
        ulp.compile(_Nested(), x, bits="float")
    with pytest.raises(ValueError, match=r"bits= is for models of floats, and this one has layers of ulp.torch"):
        ulp.compile(converted, x, bits=4)
    with pytest.raises(TypeError, match="model is dict: expected"):
        ulp.compile({}, x)
    with pytest.raises(TypeError, match="TorchScript"):
        ulp.compile(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), torch.zeros(1, 2), bits="float")
    monkeypatch.setitem(importlib.sys.modules, "onnxscript", None)  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="onnxscript"):
        ulp.compile(floats, x, bits=4, calibrate=x)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": "W9A9", "calibrate": _X}, ValueError, "bits='W9A9': expected widths from 1 to 8"),
        ({"bits": {"fc": 9}, "calibrate": _X}, ValueError, r"bits\['fc'\]=9"),
        ({"bits": "auto", "calibrate": _X}, ValueError, "needs a budget"),
        ({"bits": "auto", "calibrate": _X, "max_drop": 1, "target": "z80"}, ValueError, "target='z80': instruction set 'z80' is unknown"),
        ({"bits": "auto", "calibrate": _X, "max_drop": 1, "metric": 3}, TypeError, "metric=3: expected a function"),
        ({"bits": 4, "calibrate": []}, ValueError, "calibrate holds no batches"),
        ({"bits": 4, "calibrate": 5}, TypeError, "calibrate of type int"),
        ({"bits": 4, "calibrate": _X, "ranges": "all"}, ValueError, "ranges='all': expected one of minmax"),
        ({"bits": 4, "calibrate": _X, "percentile": "9"}, TypeError, "percentile='9'"),
        ({"bits": 4, "calibrate": _X, "rounding": "up"}, ValueError, "rounding='up'"),
        ({"bits": 4, "calibrate": _X, "bias_correction": "no"}, TypeError, "bias_correction='no'"),
        ({"bits": 4, "calibrate": _X, "equalize": "no"}, TypeError, "equalize='no'"),
        ({"bits": 4, "calibrate": _X, "first_last_bits": 9}, ValueError, "first_last_bits"),
    ],
)
def test_options_are_checked_before_the_export(
    floats: Any, options: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulp._bridge.torch_source.exported", lambda *_: pytest.fail("the model was exported"))
    with pytest.raises(error, match=message):
        ulp.compile(floats, _X[:1], **options)


class _Pooled(Module):
    """Strides of channels last in front of a pooling to one value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.conv(x)).contiguous(memory_format=torch.channels_last)
        return self.fc(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1))


def test_any_memory_format_becomes_integers() -> None:
    model = _Pooled().eval().to(memory_format=torch.channels_last)
    example = _random(2, 8, 8)[:, None].to(memory_format=torch.channels_last)
    network = ulp.compile(model, example, bits=8, calibrate=_X, progress=False)
    assert network.integer
    assert {row.op_type for row in network.layers}.isdisjoint({"Gather", "Range"})
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.inputs[0].shape == ("batch", 1, 8, 8)
    np.testing.assert_allclose(network(_X), model(_X).detach(), atol=0.02)


class _Uneven(Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.pool, self.last = nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.AdaptiveAvgPool2d((5, 3)), nn.Conv2d(8, 8, 1)

    def forward(self, x: Any) -> Any:
        return self.last(self.pool(self.act(self.conv(x))))


def test_windows_of_different_sizes_become_integers() -> None:
    torch.manual_seed(0)
    model, x = _Uneven().eval(), _random(16, 3, 14, 14)
    network = ulp.compile(model, x[:2], bits=8, calibrate=x, progress=False)
    assert network.integer
    with torch.no_grad():
        exact = model(x)
    assert float((network(x) - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize(("size", "outputs"), [(12, 5), (12, 4), (5, 7), (31, 13), (7, 7)])
def test_windows_of_adaptive_pooling(size: int, outputs: int) -> None:
    x = _random(1, 2, size)
    exact = nn.functional.adaptive_avg_pool1d(x, outputs)
    rows, kernel = translations._repeated(size, outputs)
    torch.testing.assert_close(x[..., rows].unflatten(-1, (-1, kernel)).mean(-1), exact)
    matrix = numpy_helper.to_array(translations._means(size, outputs))
    torch.testing.assert_close(x @ torch.from_numpy(matrix).T, exact)


_TRUE = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) > 0.5
_TRUE[:, 0] = False  # a row of nothing would be NaN
_OTHER: dict[str, Any] = {"kdim": 6, "vdim": 10}


@pytest.mark.parametrize(
    ("sides", "options", "call"),
    [
        ((5, 5), {}, {"attn_mask": _TRUE[:5], "need_weights": False}),
        ((5, 6), _OTHER | {"batch_first": True}, {"key_padding_mask": torch.cat((_TRUE, _TRUE[:, :1]), 1)[:3]}),
        ((6, 5), {"batch_first": True}, {"attn_mask": _TRUE.expand(12, 6, 5), "average_attn_weights": False}),
        ((6, 5), {"bias": False}, {"attn_mask": _random(6, 5), "key_padding_mask": _TRUE[:3]}),
        ((5, 5), {"add_bias_kv": True, "add_zero_attn": True}, {}),
    ],
)
def test_attention_in_another_form(sides: tuple[int, int], options: dict[str, Any], call: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(16, 4, **options).eval()
    x = _random(3, sides[0], 16)
    key, value = (_random(3, sides[1], options.get(name, 16), seed=1) for name in ("kdim", "vdim"))
    given: Any = (x, x, x) if sides[0] == sides[1] else (x, key, value)
    given = given if options.get("batch_first") else tuple(x.transpose(0, 1) for x in given)
    with torch.no_grad():
        exact = model(*given, **call)
        with attention.batch_first(model):
            made = model(*given, **call)
    assert "forward" not in vars(model)
    torch.testing.assert_close(made, exact)


def test_an_encoder_becomes_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval(), _random(16, 6, 16) - 0.5
    network = ulp.compile(model, x[:2], bits="W4A8", calibrate=x, progress=False)
    assert len(network.stages) == 1
    assert {row.op_type for row in network.layers if not row.integer} == {"LayerNormalization", "MatMul", "Softmax"}
    assert {"self_attn", "self_attn.out_proj", "linear1", "linear2"} <= {row.name for row in network.layers}
    with torch.no_grad():
        exact = model(x)
    y = network(x)
    assert float((y - exact).norm() / exact.norm()) < 0.1
    ulp.export(network, tmp_path / "model.onnx", format="qdq")
    np.testing.assert_array_equal(ulp.load(tmp_path / "model.onnx", tune=False, progress=False)(x.numpy()), y)


class _Causal(Module):
    """Attention as decoders have it: by a module with a mask, and by torch's function."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.project, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6))

    def forward(self, x: Any) -> Any:
        x = x + self.attend(x, x, x, attn_mask=self.mask, need_weights=False)[0]
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.project(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y + nn.functional.scaled_dot_product_attention(q, k, v, self.mask == 0, scale=0.5)
        return self.out(y.transpose(1, 2).flatten(2))


def test_masks_of_decoders_stay_in_the_plan() -> None:
    torch.manual_seed(0)
    model, x = _Causal().eval(), _random(16, 6, 16) - 0.5
    with torch.no_grad():
        exact = model(x)
        with attention.batch_first(model):
            torch.testing.assert_close(model(x), exact)
    network = ulp.compile(model, x[:2], bits="W8A8", calibrate=x, progress=False)
    left = {row.op_type for row in network.layers if not row.integer and "as a step of the plan" not in row.why}
    assert left <= {"Shape", "Concat", "Expand"}  # the masks, for each image
    assert float((network(x) - exact).norm() / exact.norm()) < 0.05
    assert torch.equal(network(x[:1]), network(x)[:1])


class _Guarded(Module):
    def forward(self, x: Any) -> Any:
        return x + 1 if x.sum() > 0 else x


def test_a_failed_export_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ulp.onnx.OnnxError, match="data-dependent"):
        ulp.compile(_Guarded(), _random(2, 4), bits="float")
    assert capfd.readouterr() == ("", "")


# Models that are quantized already.


def _as_the_model(model: Any, x: Any, *, tolerance: float = 1e-5) -> Any:
    """The network of a quantized model, which gives what the model gives."""
    network = ulp.compile(model, x[:1], progress=False)
    expected = _reference(model, x)
    expected = getattr(expected, "value", expected)
    assert float((network(x) - expected).abs().max()) <= tolerance * float(expected.abs().max())
    return network


def test_converted_models(converted: Any, tmp_path: Path) -> None:
    network = _as_the_model(converted, _X)
    assert [row.bits for row in network.layers if row.op_type == "Conv"] == [(8, 8), (4, 4), (4, 4), (4, 4)]
    ulp.export(converted, tmp_path / "model.onnx", _X[:1])
    np.testing.assert_array_equal(ulp.load(tmp_path / "model.onnx", progress=False)(_X.numpy()), network(_X.numpy()))
    ulp.export(network, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_torch_exports_converted_models() -> None:
    """torch.onnx.export writes them by itself, and from torch.export's programs; all kinds of layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding="same", padding_mode="circular"), nn.Conv2d(6, 6, 2, padding="same", groups=3)),
        *(nn.Flatten(), nn.Linear(6 * 25, 7)),
    )
    x = _random(4, 2, 5, 5) - 0.5
    cases = ({"bits": 3}, {"bits": 1, "act_bits": 5, "act_asymmetric": True})
    for options in cases:
        low = ulp_torch.convert(model, calibrate=[x], first_bits=None, last_bits=None, progress=False, **options)
        with torch.no_grad():
            expected = low(x).numpy()
            program = torch.export.export(low, (x,)) if options["bits"] == 1 else low
            file = torch.onnx.export(program, (x,), dynamo=True, verbose=False)
        loaded = ulp.load(file.model_proto, progress=False)(x.numpy())
        np.testing.assert_allclose(loaded, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_dynamic_layers_run_in_floats() -> None:
    torch.manual_seed(0)
    model = ulp_torch.convert(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), bits=4, dynamic=True, progress=False)
    x = _random(1, 6) - 0.5
    network = ulp.compile(model, x, progress=False)
    torch.testing.assert_close(network(x), _reference(model, x))
    assert not network.integer


def test_brevitas() -> None:
    qnn, quant = pytest.importorskip("brevitas.nn"), pytest.importorskip("brevitas.quant")
    torch.manual_seed(0)
    model = nn.Sequential(
        qnn.QuantIdentity(act_quant=quant.Int8ActPerTensorFloat, return_quant_tensor=True),
        qnn.QuantConv2d(1, 8, 3, padding=1, weight_quant=quant.Int8WeightPerChannelFloat, weight_bit_width=4),
        nn.BatchNorm2d(8),
        qnn.QuantReLU(bit_width=4, return_quant_tensor=True),
        nn.Flatten(),
        qnn.QuantLinear(512, 10, bias=True, weight_quant=quant.Int8WeightPerTensorFloat, weight_bit_width=3),
    )
    with torch.no_grad():
        model(_X)
    network = _as_the_model(model, _X)
    assert network.integer
    assert [row.bits for row in network.layers if row.op_type in ("Conv", "Gemm")] == [(4, 8), (3, 4)]


def test_torch_ao() -> None:
    quantization = torch.ao.quantization
    torch.manual_seed(0)
    model = nn.Sequential(
        quantization.QuantStub(),
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(128, 5),
        quantization.DeQuantStub(),
    ).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    eager = quantization.prepare(quantization.fuse_modules(model, [["1", "2"]]))
    eager(_X)
    assert _as_the_model(quantization.convert(eager), _X, tolerance=0.02).integer
    quantize_fx = importlib.import_module("torch.ao.quantization.quantize_fx")
    traced = quantize_fx.prepare_fx(_resnet().eval(), quantization.get_default_qconfig_mapping("fbgemm"), (_X,))
    traced(_X)
    assert _as_the_model(quantize_fx.convert_fx(traced), _X, tolerance=0.02).integer


class _Pt2e(Module):
    """A convolution as pt2e leaves it: codes up to 127 of a type that goes to 255."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randint(-8, 8, (4, 1, 3, 3), dtype=torch.int8)
        self.register_buffer("weight", weight)
        self.register_buffer("scales", torch.rand(4) + 0.1)
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.int64))

    def forward(self, x: Any) -> Any:
        ops = torch.ops.quantized_decomposed
        codes = ops.quantize_per_tensor(x, 0.01, 3, 0, 127, torch.uint8)
        weight = ops.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -8, 7, torch.int8)
        y = nn.functional.conv2d(ops.dequantize_per_tensor(codes, 0.01, 3, 0, 127, torch.uint8), weight)
        codes = ops.quantize_per_tensor(y, 0.3, 60, 0, 127, torch.uint8)
        return ops.dequantize_per_tensor(codes, 0.3, 60, 0, 127, torch.uint8)


def test_pt2e() -> None:
    torch.manual_seed(0)
    program = torch.export.export(_Pt2e(), (_X,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    network = ulp.compile(program, _X, progress=False)
    assert network.integer
    x = 4 * _X - 1  # beyond the range of the codes
    with torch.no_grad():
        expected = program.module()(x)
    assert ((network(x) - expected).abs() > 0.01).float().mean() < 0.01  # a code falls to its neighbour where sums in float32 round


def test_torchao() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    linear = nn.Sequential(nn.Linear(16, 4)).eval()
    quantization.quantize_(linear, quantization.Int8DynamicActivationInt8WeightConfig())
    network = _as_the_model(linear, _random(4, 16))
    assert [row.integer for row in network.layers if row.op_type == "MatMulInteger"] == [True]


# Other sources, one verb.


def test_networks_of_ulp_nn_and_onnx_models(tmp_path: Path) -> None:
    module = ulp.nn.Sequential(ulp.nn.Linear(4, 4, bits=4), ulp.nn.ReLU(), ulp.nn.Linear(4, 2, bits=4))
    x = np.random.default_rng(0).random((8, 4), dtype=np.float32)
    module.calibrate([x], progress=False)
    network = ulp.compile(module, x, mode="threshold", progress=False)
    assert isinstance(network, ulp.nn.CompiledNetwork)
    assert network.mode == "threshold"
    np.testing.assert_array_equal(network(x), ulp.nn.compile(module, x, mode="threshold", progress=False)(x))
    with pytest.raises(TypeError, match=r"bits= for a network of ulp.nn"):
        ulp.compile(module, x, bits=4)
    with pytest.raises(TypeError, match="example is missing"):
        ulp.compile(module)
    model = small_network()
    images = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
    compiled = ulp.compile(model, bits=4, calibrate=images, progress=False)
    loaded = ulp.load(model, bits=4, calibrate=images, progress=False)
    np.testing.assert_array_equal(compiled(images), loaded(images))
    quantized = by_onnxruntime(model, images)
    file = io.BytesIO(quantized.SerializeToString()).getvalue()
    np.testing.assert_array_equal(ulp.compile(file, images, progress=False)(images), ulp.load(quantized, progress=False)(images))
    with pytest.raises(ValueError, match="bits= is for models of floats, and this one has quantizers"):
        ulp.compile(file, bits=4)
    with pytest.raises(ValueError, match="model is of floats"):
        ulp.compile(model)


# torch.compile.


@pytest.fixture
def fresh() -> Any:
    """torch.compile without what it compiled before; and what was warned of is forgotten."""
    torch._dynamo.reset()
    importlib.import_module("ulp._bridge.dynamo").forget_warnings()


class _Breaks(Module):
    """A graph before and one behind a condition on values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.a(x))
        if y.sum() > 0:
            y = y + 1
        return {"y": self.b(y)}


def _low(model: Any) -> Any:
    return ulp_torch.convert(model, bits=4, calibrate=[_random(8, 8)], progress=False)


@pytest.mark.usefixtures("fresh")
@pytest.mark.filterwarnings("error:.*backend='ulp'")
def test_torch_compile() -> None:
    torch.manual_seed(0)
    model, x = _low(_Breaks()), _random(4, 8, seed=1)
    fast = torch.compile(model, backend="ulp", options={"tune": False})
    with torch.no_grad():
        torch.testing.assert_close(fast(x)["y"], model(x)["y"])
    low = _low(nn.Sequential(nn.Linear(8, 4)))
    fast = torch.compile(low, backend="ulp")
    with torch.inference_mode():
        for batch in (4, 7):  # from the second on, the batch is a symbol
            x = _random(batch, 8, seed=batch)
            torch.testing.assert_close(fast(x), low(x))
        # Other weights in the same module are not missed.
        low.load_state_dict(_low(nn.Sequential(nn.Linear(8, 4))).state_dict())
        torch.testing.assert_close(fast(x), low(x))


@pytest.mark.usefixtures("fresh")
def test_torch_compile_leaves_what_it_cannot_take() -> None:
    model, x = nn.Linear(4, 4), _random(2, 4)
    fast = torch.compile(model, backend="ulp")
    with torch.no_grad(), pytest.warns(UserWarning, match="no low-bit layers") as caught:
        y = fast(x)
    torch.testing.assert_close(y, model(x))
    with torch.no_grad(), warnings.catch_warnings(record=True) as again:
        warnings.simplefilter("always")
        torch.compile(nn.Sequential(model), backend="ulp")(x)
    assert not [w for w in again if "backend='ulp'" in str(w.message)]
    assert sum("backend='ulp'" in str(warning.message) for warning in caught) == 1
    mixed = nn.Sequential(model, ulp_torch.convert(nn.Sequential(nn.Linear(4, 4)), bits=4, calibrate=[x], progress=False))
    with pytest.raises(RuntimeError, match="inference only"):  # as without torch.compile: the first layer's result has a gradient
        torch.compile(mixed, backend="ulp")(x)
    torch._dynamo.reset()  # it has given up the functions that the error went through
    for options, message in (({"bits": 4}, "options has 'bits'"), ({"hint": "fast"}, "hint='fast'")):
        with torch.no_grad(), pytest.raises(Exception, match=message):
            torch.compile(mixed, backend="ulp", options=options)(x)
    with torch.no_grad(), pytest.raises(Exception, match="is for inductor"):
        torch.compile(mixed, backend="ulp", mode="max-autotune")(x)
