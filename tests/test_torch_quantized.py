"""`ulp.torch.convert` of layers that are quantized already: Brevitas', torch.ao's and torchao's, against themselves."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

ulp_torch = importlib.import_module("ulp.torch")

# These libraries, and torch about itself, warn of what they will change.
pytestmark = pytest.mark.filterwarnings("ignore")


def _package(name: str) -> Any:
    """The package, or the test is skipped by its name; what it warns of while it is imported is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def _random(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def _close(ours: Any, theirs: Any) -> None:
    """Equal but for the rounding of float32 sums."""
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 2e-6 * float(theirs.abs().max())


# Brevitas.


def _settled(network: Any, x: Any) -> Any:
    """The network with the statistics of its activations collected, in evaluation."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(x)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


def _brevitas(weight_bits: int, act_bits: int) -> Any:
    qnn, quant = _package("brevitas.nn"), _package("brevitas.quant")
    torch.manual_seed(0)
    per_channel, per_tensor = quant.Int8WeightPerChannelFloat, quant.Int8WeightPerTensorFloat
    return nn.Sequential(
        qnn.QuantConv2d(3, 8, 5, 2, padding=2, input_quant=quant.Int8ActPerTensorFloat, weight_quant=per_channel, weight_bit_width=8),
        nn.BatchNorm2d(8),
        qnn.QuantReLU(bit_width=act_bits, return_quant_tensor=True),
        nn.MaxPool2d(2),
        qnn.QuantConv2d(8, 8, 3, padding=1, groups=8, weight_quant=per_channel, weight_bit_width=weight_bits, bias_quant=quant.Int32Bias),
        nn.BatchNorm2d(8),
        qnn.QuantReLU(bit_width=act_bits),
        qnn.QuantConv2d(
            8, 12, 3, dilation=2, weight_quant=per_tensor, weight_bit_width=weight_bits, output_quant=quant.Int8ActPerTensorFloat
        ),
        nn.Flatten(),
        qnn.QuantLinear(48, 10, bias=True, weight_quant=per_tensor, weight_bit_width=weight_bits),
    )


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(3, 3), (2, 2), (4, 8), (8, 4)])
def test_brevitas_layers_keep_their_scales_and_bits(weight_bits: int, act_bits: int) -> None:
    x = _random(16, 3, 24, 24)
    network = _settled(_brevitas(weight_bits, act_bits), x)
    low = ulp_torch.convert(network)
    assert [(c.name, c.kind, c.bits, c.act_bits, c.folded) for c in low.ulp_report.converted] == [
        ("0", "Conv2d", 8, 8, "1"),
        ("4", "Conv2d", weight_bits, act_bits, "5"),
        ("7", "Conv2d", weight_bits, act_bits, None),
        ("9", "Linear", weight_bits, 8, None),
    ]
    assert not low.ulp_report.left
    x = _random(9, 3, 24, 24, seed=1)
    with torch.no_grad():
        theirs = network(x)
        _close(low(x), theirs)
        _close(copy.deepcopy(low)(x), theirs)
        _close(ulp_torch.convert(network, fold=False)(x), theirs)


def test_brevitas_binary_layers() -> None:
    qnn, quant = _package("brevitas.nn"), _package("brevitas.quant")
    torch.manual_seed(0)
    weights = {"weight_quant": quant.SignedBinaryWeightPerTensorConst, "bias": False}
    network = nn.Sequential(
        qnn.QuantIdentity(act_quant=quant.SignedBinaryActPerTensorConst),
        qnn.QuantConv2d(4, 8, 3, padding=1, **weights),
        nn.BatchNorm2d(8),
        qnn.QuantIdentity(act_quant=quant.SignedBinaryActPerTensorConst),
        nn.Flatten(),
        qnn.QuantLinear(8 * 36, 5, **weights),
    )
    x = _random(16, 4, 6, 6)
    network = _settled(network, x)
    low = ulp_torch.convert(network)
    assert [(c.bits, c.act_bits) for c in low.ulp_report.converted] == [(1, 2), (1, 2)]
    with torch.no_grad():
        _close(low(x), network(x))


def test_brevitas_weights_with_zero_points() -> None:
    qnn, quant = _package("brevitas.nn"), _package("brevitas.quant")
    torch.manual_seed(0)
    network = nn.Sequential(
        qnn.QuantIdentity(act_quant=quant.ShiftedUint8ActPerTensorFloat, bit_width=5),
        qnn.QuantConv2d(4, 8, 3, weight_quant=quant.ShiftedUint8WeightPerTensorFloat, weight_bit_width=4),
    )
    x = _random(16, 4, 6, 6)
    network = _settled(network, x)
    low = ulp_torch.convert(network)
    (converted,) = low.ulp_report.converted
    assert converted.bits in (4, 5)
    assert converted.act_bits == 5
    with torch.no_grad():
        _close(low(x), network(x))


def test_what_brevitas_layers_are_left_and_why() -> None:
    qnn, quant = _package("brevitas.nn"), _package("brevitas.quant")
    act = quant.Int8ActPerTensorFloat
    network = nn.ModuleDict(
        {
            "alone": qnn.QuantLinear(4, 4, bias=True),
            "sums": qnn.QuantLinear(4, 4, bias=True, input_quant=act, return_quant_tensor=True),
            "floats": qnn.QuantLinear(4, 4, bias=True, input_quant=act, weight_quant=None),
            "wide": qnn.QuantLinear(4, 4, bias=True, input_quant=act, weight_bit_width=9),
            "skipped": qnn.QuantLinear(4, 4, bias=True, input_quant=act),
            "plain": nn.Linear(4, 4),
        }
    ).eval()
    low = ulp_torch.convert(network, skip="skipped")
    assert not low.ulp_report.converted
    reasons = low.ulp_report.left
    assert "nothing is known to quantize its input" in reasons["alone"]
    assert "a QuantTensor of sums" in reasons["sums"]
    assert "weights are floats" in reasons["floats"]
    assert "9 bits" in reasons["wide"]
    assert "skip" in reasons["skipped"]
    assert "of floats among quantized layers" in reasons["plain"]
    converted = ulp_torch.convert(network, skip="skipped", bits=4, dynamic=True).ulp_report.converted
    assert [(c.name, c.bits) for c in converted] == [("plain", 8)]


# torch.ao.


class _AoNetwork(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        ao = torch.ao.quantization
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.first = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.norm, self.relu = nn.BatchNorm2d(16), nn.ReLU()
        self.second = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.third = nn.Conv2d(16, 8, 3, bias=False, dilation=2)
        self.fourth, self.last = nn.Linear(8 * 16, 20), nn.Linear(20, 5)
        self.relu4 = nn.ReLU()

    def forward(self, x: Any) -> Any:
        x = self.relu(self.norm(self.first(self.quant(x))))
        x = self.third(self.second(x)).flatten(1)
        return self.dequant(self.last(self.relu4(self.fourth(x))))


def _static(x: Any, graph_mode: bool) -> Any:
    torch.manual_seed(0)
    ao = torch.ao.quantization
    network = _AoNetwork().eval()
    if graph_mode:
        fx = importlib.import_module("torch.ao.quantization.quantize_fx")
        network.quant, network.dequant = nn.Identity(), nn.Identity()
        prepared = fx.prepare_fx(network, ao.get_default_qconfig_mapping("fbgemm"), (x,))
        prepared(x)
        return fx.convert_fx(prepared)
    fused = ao.fuse_modules(network, [["first", "norm", "relu"], ["fourth", "relu4"]])
    fused.qconfig = ao.get_default_qconfig("fbgemm")
    prepared = ao.prepare(fused)
    prepared(x)
    return ao.convert(prepared)


def _codes_agree(ours: Any, theirs: Any) -> None:
    """The same scale, and the same codes but for a few, off by one, where a value lies at the middle of two."""
    assert (ours.q_scale(), ours.q_zero_point(), ours.dtype) == (theirs.q_scale(), theirs.q_zero_point(), theirs.dtype)
    difference = (ours.int_repr().int() - theirs.int_repr().int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 1e-3


@pytest.mark.parametrize("graph_mode", [False, True])
def test_static_layers_of_torch_ao(graph_mode: bool) -> None:
    torch.backends.quantized.engine = "fbgemm"
    x = _random(16, 3, 15, 15)
    network = _static(x, graph_mode)
    low = ulp_torch.convert(network)
    assert sorted((c.kind, c.bits, c.act_bits) for c in low.ulp_report.converted) == [("Conv2d", 8, 8)] * 3 + [("Linear", 8, 8)] * 2
    with torch.no_grad():
        theirs, ours = network(x), low(x)
        step = float(network.get_submodule("last").scale)
        assert float((ours - theirs).abs().max()) <= 2.001 * step
        assert float((ours != theirs).float().mean()) < 0.02
        assert torch.equal(pickle.loads(pickle.dumps(low))(x) if not graph_mode else low(x), ours)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_one_static_layer_of_torch_ao(relu: bool, per_channel: bool) -> None:
    torch.backends.quantized.engine = "fbgemm"
    torch.manual_seed(1)
    q, qi = torch.ao.nn.quantized, torch.ao.nn.intrinsic.quantized
    conv = (qi.ConvReLU2d if relu else q.Conv2d)(6, 10, 3, stride=(1, 2), padding=(2, 1), groups=2)
    linear = (qi.LinearReLU if relu else q.Linear)(60, 33)
    for layer, x in ((conv, _random(64, 6, 9, 8)), (linear, _random(100, 60)), (linear, _random(2, 3, 60))):
        weight, bias = _random(*layer.weight().shape), _random(layer.weight().shape[0], seed=1)
        if per_channel:
            scales = torch.rand(len(weight), dtype=torch.float64) / 30
            weight = torch.quantize_per_channel(weight, scales, torch.zeros(len(weight), dtype=torch.int64), 0, torch.qint8)
        else:
            weight = torch.quantize_per_tensor(weight, 0.02, 0, torch.qint8)
        layer.set_weight_bias(weight, bias)
        layer.scale, layer.zero_point = 0.1, 60
        codes = torch.quantize_per_tensor(x, 0.05, 64, torch.quint8).int_repr().clamp(max=127)
        quantized = torch._make_per_tensor_quantized_tensor(codes, 0.05, 64)
        low = ulp_torch.convert(nn.Sequential(layer))
        _codes_agree(low(quantized), layer(quantized))
        before = low.state_dict()
        layer.set_weight_bias(layer.weight(), None)
        layer.scale = 0.2
        other = ulp_torch.convert(nn.Sequential(layer))
        _codes_agree(other(quantized), layer(quantized))
        layer.set_weight_bias(weight, bias)
        other = ulp_torch.convert(nn.Sequential(layer))
        other(quantized)
        other.load_state_dict(before)
        assert torch.equal(other.half()(quantized).int_repr(), low(quantized).int_repr())
    with pytest.raises(TypeError, match="expected a quint8 tensor with one scale"):
        low(_random(2, 60))


def test_dynamic_layers_of_torch_ao() -> None:
    torch.backends.quantized.engine = "fbgemm"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 9, bias=False)).eval()
    network = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    low = ulp_torch.convert(network)
    assert [(c.kind, c.bits, c.act_bits) for c in low.ulp_report.converted] == [("Linear", 8, 8)] * 2
    for shape in ((5, 70), (1, 70), (2, 3, 70)):
        x = _random(*shape)
        assert torch.equal(low[0](x), network[0](x))
        _close(low(x), network(x))
    assert low(_random(0, 70)).shape == (0, 9)


def test_graphs_of_pt2e() -> None:
    prepare = _package("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    torch.manual_seed(0)
    network = _AoNetwork().eval()
    network.quant, network.dequant = nn.Identity(), nn.Identity()
    x = _random(16, 3, 15, 15)
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare.prepare_pt2e(torch.export.export(network, (x,)).module(), quantizer)
    prepared(x)
    quantized = prepare.convert_pt2e(prepared)
    low = ulp_torch.convert(quantized)
    assert [(c.kind, c.bits, c.act_bits) for c in low.ulp_report.converted] == [("Conv2d", 8, 8)] * 3 + [("Linear", 8, 8)] * 2
    assert not low.ulp_report.left
    assert not any(name.startswith("_frozen_param") for name, _ in (*low.named_parameters(), *low.named_buffers()))
    with torch.no_grad():
        ours, theirs = low(x), quantized(x)
    assert float((ours - theirs).abs().max()) <= 0.02 * float(theirs.abs().max())
    assert float((ours - theirs).abs().mean()) <= 1e-4 * float(theirs.abs().max())


def test_what_layers_of_torch_ao_are_left_and_why() -> None:
    q = torch.ao.nn.quantized
    conv = q.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    report = ulp_torch.convert(nn.Sequential(conv, q.dynamic.Conv2d(4, 4, 3))).ulp_report
    assert not report.converted
    assert "padding_mode='reflect'" in report.left["0"]
    assert "dynamic Conv2d is not supported" in report.left["1"]


def test_every_layer_with_weights_has_a_line() -> None:
    class Lines(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
            self.line, self.up = nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 4, 3)

        def forward(self, x: Any) -> Any:
            return self.dequant(self.up(self.line(self.quant(x))))

    source = Lines().eval()
    source.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    source.up.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(source)
    prepared(_random(2, 3, 16))
    left = ulp_torch.convert(torch.ao.quantization.convert(prepared)).ulp_report.left
    assert left == {"line": "Conv1d is not supported", "up": "ConvTranspose1d is not supported"}
    recurrent = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 4)).eval())
    report = ulp_torch.convert(recurrent).ulp_report
    assert report.left == {}
    assert [c.name for c in report.converted] == ["0", "1"]


def test_other_operators_of_pt2e_have_a_line() -> None:
    prepare = _package("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    network, x = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).eval(), _random(8, 3, 6)
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare.prepare_pt2e(torch.export.export(network, (x,)).module(), quantizer)
    prepared(x)
    report = ulp_torch.convert(prepare.convert_pt2e(prepared)).ulp_report
    assert list(report.left.values()) == ["aten.conv1d.default is not supported"]
    assert [c.kind for c in report.converted] == ["Linear"]


def test_quantized_layers_take_their_input_by_torchs_names() -> None:
    network = _AoNetwork().eval()
    network.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    prepared = torch.ao.quantization.prepare(network)
    x = _random(4, 3, 15, 15)
    prepared(x)
    low = ulp_torch.convert(torch.ao.quantization.convert(prepared))
    q = low.quant(x)
    assert torch.equal(low.first(q).int_repr(), low.first(input=q).int_repr())
    assert torch.equal(low.first(q).int_repr(), low.first(x=q).int_repr())
    with pytest.raises(TypeError, match="missing 1 required argument"):
        low.first()


# torchao.


def _linears(dtype: Any = torch.float32) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 33, bias=False)).to(dtype)


def _torchao(make: Callable[[Any], Any], dtype: Any = torch.float32) -> Any:
    quantization = _package("torchao.quantization")
    network = _linears(dtype)
    quantization.quantize_(network, make(quantization))
    return network


def test_int8_activations_and_weights_of_torchao_are_the_same_bits() -> None:
    network = _torchao(lambda q: q.Int8DynamicActivationInt8WeightConfig())
    low = ulp_torch.convert(network)
    assert [(c.kind, c.bits, c.act_bits) for c in low.ulp_report.converted] == [("Linear", 8, 8)] * 2
    for shape in ((7, 128), (1, 128), (2, 3, 128)):
        x = _random(*shape)
        assert torch.equal(low(x), network(x))
    assert torch.equal(copy.deepcopy(low)(x), network(x))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, 0])
def test_integer_weights_and_dynamic_activations_of_torchao(bits: int, group: int) -> None:
    def config(q: Any) -> Any:
        granularity = _package("torchao.quantization.granularity")
        width = getattr(torch, f"int{bits}")
        by = granularity.PerGroup(group) if group else granularity.PerAxis(0)
        return q.Int8DynamicActivationIntxWeightConfig(weight_dtype=width, weight_granularity=by)

    network = _torchao(config)
    low = ulp_torch.convert(network)
    assert [(c.bits, c.act_bits) for c in low.ulp_report.converted] == [(bits, 8)] * 2
    x = _random(2, 3, 128)
    _close(low[0](x), network[0](x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_integer_weights_only_of_torchao(bits: int, dtype: Any) -> None:
    def config(q: Any) -> Any:
        if bits == 8:
            return q.Int8WeightOnlyConfig()
        return q.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=_package("torchao.quantization.granularity").PerGroup(32))

    network = _torchao(config, dtype)
    low = ulp_torch.convert(network)
    assert [(c.bits, c.act_bits) for c in low.ulp_report.converted] == [(bits, 0)] * 2
    x = (_random(5, 128) * 100).to(dtype)
    ours, theirs = low[0](x), network[0](x)
    if dtype == torch.float32:
        _close(ours, theirs)
    else:
        exact = torch.nn.functional.linear(x.double(), network[0].weight.dequantize().double(), network[0].bias.double())
        assert ours.dtype == theirs.dtype
        assert float((ours.double() - exact).abs().max()) <= 2**-8 * float(exact.abs().max())
    state = low.state_dict()
    other = ulp_torch.convert(_torchao(config, dtype))
    other.load_state_dict(state)
    assert torch.equal(other[0](x), ours)


def test_digits_hold_22_bits() -> None:
    digits = importlib.import_module("ulp.torch.quantized.integer_linear").digits
    x = np.concatenate([_random(6, 50).numpy() * 10.0 ** np.arange(-20, 40, 10)[:, None], np.zeros((1, 50))]).astype(np.float32)
    x[0, :3] = 1, -1, 0.999999
    codes, step = digits(x)
    high, middle, low = codes.astype(np.int64).reshape(3, *x.shape)
    back = (65536 * high + 256 * middle + low) * step
    assert (np.abs(back - x) <= 2.0**-22 * np.abs(x).max(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("make", [lambda q: q.Int8WeightOnlyConfig(), lambda q: q.Int8DynamicActivationInt8WeightConfig()])
def test_what_layers_of_torchao_refuse(make: Callable[[Any], Any]) -> None:
    low = ulp_torch.convert(_torchao(make))
    with pytest.raises(RuntimeError, match="must be in_features=128, but its shape is"):
        low(_random(2, 5))
    with pytest.raises(RuntimeError, match="for inference only"):
        low(_random(2, 128).requires_grad_())
    with pytest.raises(ValueError, match="NaN or an infinity"):
        low(torch.full((2, 128), float("nan")))
