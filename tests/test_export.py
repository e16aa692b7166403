"""`ulp.export` of networks of ulp.nn and of files: what is read back computes the same, here, in onnxruntime and in qonnx."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp
from ulp import nn

onnx = pytest.importorskip("onnx")


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bits=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=8, bits=3, act_bits=5, padding=1, padding_mode="reflect"),
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 4, 10, bits=8),
    )


def _zero_points_and_signs() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bits=2, act_bits=8, act_asymmetric=True),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, bits=1, act_bits=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10, bits=6, act_bits=7),
    )


def _activations() -> nn.Module:
    layers: list[nn.Module] = []
    kinds: list[Callable[[], nn.Module]] = [
        *(nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU, lambda: nn.PReLU(6), nn.ELU, nn.Mish, nn.Sigmoid, nn.Hardsigmoid)
    ]
    for kind in kinds:
        layers += [nn.Conv2d(6, 6, 1, bits=4), kind()]
    return nn.Sequential(*layers, nn.Conv2d(6, 4, 1, bits=4))


class _Residual(nn.Module):
    """Two results, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bits=8), nn.ReLU())
        self.second = nn.Conv2d(8, 8, 3, padding=1, bits=4)
        self.add, self.cat = nn.Add(4), nn.Concat(1)
        self.quantize = nn.Quantize(4)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        y = self.add(self.second(x), x)
        return {"sum": y, "both": self.quantize(self.cat(y, x))}


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (_convolutions, (3, 8, 8)),
    "zero points and signs": (_zero_points_and_signs, (3, 8, 8)),
    "activations": (_activations, (6, 4, 4)),
    "residual": (_Residual, (3, 6, 6)),
    "sequence": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 3, padding=1, bits=4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 4, 1, bits=4)),
        (3, 16),
    ),
    "rows": (lambda: nn.Sequential(nn.Linear(8, 16, bits=4), nn.ReLU(), nn.Linear(16, 4, bits=4)), (6, 8)),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Any, Array]:
    """A calibrated network, and images."""
    make, shape = NETWORKS[request.param]
    nn.manual_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, *shape)).astype(np.float32)
    return make().calibrate([x[:8]], progress=False), x


def _results(found: Any) -> list[Array]:
    return list(found.values()) if isinstance(found, dict) else [found]


def _onnxruntime(path: Path, x: Array, *, optimized: bool) -> list[Array]:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"input": x}))


@pytest.mark.parametrize("form", ["qdq", "qonnx"])
@pytest.mark.parametrize("mode", ["requantize", "threshold"])
def test_what_is_read_back_computes_the_same(network: tuple[Any, Array], form: str, mode: str, tmp_path: Path) -> None:
    module, x = network
    path = tmp_path / "model.onnx"
    ulp.export(module, path, x[:1], format=form)
    compiled = nn.compile(module, x, mode="threshold" if mode == "threshold" else "fp32", tune=False, progress=False)
    loaded = ulp.load(path, mode=mode, tune=False, progress=False)
    assert all(row.integer for row in loaded.layers if row.op_type not in ("Unsqueeze", "Transpose"))
    for ours, theirs in zip(_results(loaded(x)), _results(compiled(x)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_onnxruntime_runs_qdq(network: tuple[Any, Array], tmp_path: Path) -> None:
    module, x = network
    path = tmp_path / "model.onnx"
    ulp.export(module, path, x.shape)
    onnx.checker.check_model(str(path))
    ours = _results(ulp.load(path, tune=False, progress=False)(x))
    for optimized in (False, True):
        for y, theirs in zip(ours, _onnxruntime(path, x, optimized=optimized), strict=True):
            # Its optimizations round biases. Without them float32 sums round, so that a value next to the middle between two codes may fall
            # to either.
            assert optimized or (np.abs(y - theirs) > 1e-5 * np.abs(theirs).max()).mean() < 0.02
            assert np.abs(y - theirs).max() < 0.2 * np.abs(theirs).max()


def test_qonnx_runs_qonnx(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        execute = pytest.importorskip("qonnx.core.onnx_exec").execute_onnx
        wrapper = pytest.importorskip("qonnx.core.modelwrapper").ModelWrapper
        shapes = pytest.importorskip("qonnx.transformation.infer_shapes").InferShapes
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, bits=3), nn.ReLU(), nn.Conv2d(8, 8, 3, bits=1, act_bits=4), nn.ReLU(), nn.Conv2d(8, 4, 1, bits=4)
    )
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    module.calibrate([x], progress=False)
    ulp.export(module, tmp_path / "model.onnx", x, format="qonnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {node.op_type for node in model.graph.node} == {"Quant", "BipolarQuant", "Conv", "Relu", "Identity"}
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 1
    (theirs,) = execute(wrapper(model).transform(shapes()), {"input": x}).values()
    np.testing.assert_allclose(ulp.load(model, tune=False, progress=False)(x), theirs, rtol=0, atol=1e-6)


def test_types_of_qdq(tmp_path: Path) -> None:
    """Weights have the narrowest type that holds them, and bytes of codes have bounds."""
    layers = [nn.Linear(4, 4, bits=bits, act_bits=act) for bits, act in ((1, 8), (2, 1), (3, 2), (4, 3), (5, 4), (8, 5))]
    module = nn.Sequential(*layers)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    module.calibrate([x], progress=False)
    path = tmp_path / "model.onnx"
    ulp.export(module, path, x)
    model = onnx.load(path)
    types = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
    weights = [types[f"{i}.weight/integers"] for i in range(6)]
    assert weights == ["INT4", "INT4", "INT4", "INT4", "INT8", "INT8"]
    assert sum(node.op_type == "Clip" for node in model.graph.node) == 5
    assert model.opset_import[0].version == 21
    np.testing.assert_array_equal(ulp.load(path, tune=False, progress=False)(x), nn.compile(module, x, tune=False, progress=False)(x))


def _quant(bits: float, op_type: str = "Quant", **attributes: Any) -> Any:
    """x, quantized, plus 1."""
    helper = onnx.helper
    inputs = {"scale": 0.5, "zero": 0.0, "bits": bits}
    names = list(inputs)[: 1 if op_type == "BipolarQuant" else 3]
    constants = [onnx.numpy_helper.from_array(np.array(inputs[name], np.float32), name) for name in names]
    nodes = [
        helper.make_node(op_type, ["x", *names], ["q"], name="quantizer", domain="qonnx.custom_op.general", **attributes),
        helper.make_node("Relu", ["q"], ["y"], name="relu"),
    ]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("qonnx.custom_op.general", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], constants), opset_imports=imports, ir_version=9)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: _quant(9, signed=1), "Quant 'quantizer'.*9 bits"),
        (lambda: _quant(2.5, signed=1), "Quant 'quantizer'.*2.5 bits"),
        (lambda: _quant(1, signed=1), "Quant 'quantizer'.*-1 and \\+1"),
        (lambda: _quant(4, signed=1, rounding_mode="FLOOR"), "Quant 'quantizer'.*FLOOR"),
        (lambda: _quant(1, "BipolarQuant"), "BipolarQuant 'quantizer'.*-1 and \\+1"),
    ],
)
def test_what_qdq_cannot_express_is_refused_by_name(model: Callable[[], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ulp.onnx.OnnxError, match=message):
        ulp.export(model(), path)
    assert not path.exists()
    ulp.export(model(), path, format="qonnx")


_QUANTIZERS: tuple[tuple[int, dict[str, Any]], ...] = ((4, {"signed": 1, "narrow": 1}), (3, {"signed": 0}), (8, {"signed": 0}))


def test_files_are_translated(tmp_path: Path) -> None:
    """QONNX in, QDQ out: narrow and unsigned intervals, and the opset that types need."""
    for bits, attributes in _QUANTIZERS:
        source, path = _quant(bits, **attributes), tmp_path / "model.onnx"
        ulp.export(source, path)
        x = np.linspace(-5, 70, 400, dtype=np.float32).reshape(-1, 4)
        expected = ulp.load(source, progress=False)(x)
        np.testing.assert_array_equal(ulp.load(path, progress=False)(x), expected)
        model = onnx.load(path)
        assert [opset.domain for opset in model.opset_import] == [""]


def test_layers_that_are_not_supported_are_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    unsupported = {
        "ConvTranspose2d": nn.ConvTranspose2d(4, 4, 3, stride=2, bits=4),
        "AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d(4),
    }
    for kind, layer in unsupported.items():
        module = nn.Sequential(nn.Conv2d(4, 4, 1, bits=4), nn.ReLU(), layer).calibrate([x], progress=False)
        with pytest.raises(nn.LayerError, match=f"{kind} '2' cannot be exported"):
            ulp.export(module, tmp_path / "model.onnx", x)


def test_wrong_arguments(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    module = nn.Sequential(nn.Linear(4, 4, bits=4))
    x = np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match="format='tflite'"):
        ulp.export(module, path, x, format="tflite")
    with pytest.raises(TypeError, match="example is missing"):
        ulp.export(module, path)
    with pytest.raises(nn.LayerError, match="calibrate"):
        ulp.export(module, path, x)
    module.calibrate([x], progress=False)
    with pytest.raises(TypeError, match="compiled network is a plan"):
        ulp.export(nn.compile(module, x, progress=False), path)
    ulp.export(module, path, x)
    with pytest.raises(TypeError, match="loaded from a file"):
        ulp.export(ulp.load(path, progress=False), path)
    with pytest.raises(TypeError, match="example for a str"):
        ulp.export(str(path), path, x)
    with pytest.raises(FileNotFoundError):
        ulp.export(tmp_path / "missing.onnx", path)
    with pytest.raises(ulp.onnx.OnnxError, match="the bytes cannot be read"):
        ulp.export(b"\x00nothing", path)
    floats = onnx.load(path)
    del floats.graph.node[:]
    with pytest.raises(ulp.onnx.OnnxError, match="is of floats"):
        ulp.export(floats, path)
