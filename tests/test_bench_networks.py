"""The benchmarks of convolutions and of networks: definitions, references, peers, and what the reports make of results."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bench import ENVIRONMENT, EXACT

from bench import __main__ as cli
from bench.peers import convolution, network
from bench.reports import documents
from bench.reports import networks as network_tables
from bench.reports.tables import geomean
from bench.runs import memory, results
from bench.subjects import convolutions, graph, installed, layerwise, models, networks, ulp_networks
from bench.subjects.convolutions import Convolution
from bench.subjects.interface import Library, NetworkRuntime, WrongResultError
from tools.reference.plan import ReferencePlan

pytestmark = pytest.mark.filterwarnings("default")  # the peers' own deprecations are not ours to fail on
SMALL = (
    Convolution("test", 7, 6, 8, 16, 3),
    Convolution("test", 9, 9, 16, 8, 3, 2),
    Convolution("test", 6, 5, 12, 24, 1),
    Convolution("test", 8, 7, 16, 16, 3, 2, 16),
    Convolution("test", 6, 6, 4, 8, 5),
)


def tiny(nn: Any) -> Any:
    """Every kind of layer that the seven have."""
    body = networks._conv_norm(nn, 16, 16, 3, groups=16, act="ReLU6") + networks._conv_norm(nn, 16, 16, 1, act=None)
    return nn.Sequential(
        *networks._conv_norm(nn, 3, 16, 3, 2, first=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        networks._residual(nn, body, networks._conv_norm(nn, 16, 16, 1, act=None)),
        networks._branches(nn, networks._conv(nn, 16, 8, 1), [nn.MaxPool2d(3, 1, 1), *networks._conv(nn, 16, 24, 3, 1, 1)]),
        *networks._classifier(nn, 32),
    )


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> models.Model:
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)
    recorded = graph.record(tiny, (3, 34, 30))
    return models.Model("tiny", recorded, models.random_weights(recorded))


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_network_has_the_published_parameters(name: str) -> None:
    recorded = graph.record(networks.NETWORKS[name])
    assert recorded.parameters() == networks.PARAMETERS[name]
    assert recorded.output == (1000,)
    first = next(node for node in recorded.nodes if node.op == "conv")
    assert [node.name for node in recorded.nodes if node.attributes.get("first")] == [first.name]


# torchvision's published GFLOPS, which are multiply-accumulates.
GMACS = dict(zip(networks.NETWORKS, (0.71, 15.47, 1.81, 4.09, 1.50, 0.35, 0.30), strict=True))


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_network_has_the_published_work(name: str) -> None:
    assert round(graph.record(networks.NETWORKS[name]).macs() / 1e9, 2) == GMACS[name]


def test_sizes_inside_the_networks() -> None:
    shapes = {name: [n.shape[1:] for n in graph.record(f).nodes if n.op == "maxpool"] for name, f in networks.NETWORKS.items()}
    assert shapes["GoogLeNet"][:2] == [(56, 56), (28, 28)]  # with ceil_mode, else 55 and 27
    assert [s for s in shapes["GoogLeNet"] if s == (7, 7)] == [(7, 7)] * 3
    assert shapes["SqueezeNet 1.1"] == [(55, 55), (27, 27), (13, 13)]
    assert shapes["AlexNet"][-1] == (6, 6)
    assert shapes["ResNet-50"] == [(56, 56)]


def test_recorder_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"0: 3 channels, not 4"):
        graph.record(lambda nn: nn.Sequential(nn.Conv2d(4, 4, 3)))
    with pytest.raises(ValueError, match=r"1: input \(150528,\), not \(10,\)"):
        graph.record(lambda nn: nn.Sequential(nn.Flatten(), nn.Linear(10, 10)))


def test_networks_are_named_as_people_write_them() -> None:
    assert networks.named(["resnet18", "SqueezeNet1.1"]) == ["ResNet-18", "SqueezeNet 1.1"]
    assert networks.named(None) == list(networks.NETWORKS)
    with pytest.raises(ValueError, match=r"unknown networks \['lenet'\]; known are .*VGG16"):
        networks.named(["lenet"])


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: str(layer.name))
def test_accumulators_are_the_sums(layer: Convolution) -> None:
    a, w = convolutions.operands(layer, 8, 8)
    found = convolutions.accumulators(layer, a, w)
    assert found.shape == (*layer.out, layer.filters)
    share = layer.filters // layer.groups
    depth = layer.channels // layer.groups
    rng = np.random.default_rng(0)
    for y, x, n in zip(*(rng.integers(0, size, 40) for size in found.shape), strict=True):
        first = n // share * depth
        total = 0
        for i, j in itertools.product(range(layer.kernel), repeat=2):
            row, column = y * layer.stride + i - layer.padding, x * layer.stride + j - layer.padding
            if 0 <= row < layer.height and 0 <= column < layer.width:
                total += int(a[row, column, first : first + depth].astype(np.int64) @ w[n, i, j].astype(np.int64))
        assert found[y, x, n] == total


def test_layers_are_named_once() -> None:
    names = [f"{layer.network} {layer.name}" for layer in convolutions.LAYERS]
    assert len(set(names)) == len(names)
    assert Convolution("", 56, 56, 64, 64, 3).macs == 56 * 56 * 64 * 64 * 9
    assert Convolution("", 28, 28, 192, 192, 3, 2, 192).gemm == (196, 192, 9)


def test_requantized_layers_round_half_to_even() -> None:
    sums = np.array([-5, 1, 2, 3, 6, 100000], np.int64)
    np.testing.assert_array_equal(convolutions.requantized(sums, 4.0, 7), [0, 0, 0, 1, 2, 7])
    assert convolutions.step(np.array([256])) == 2.0
    assert convolutions.step(np.array([255]), 255) == 1.0
    assert convolutions.step(np.array([-3])) == 1.0


def _skip_unless_there(peer: Library) -> None:
    if reason := peer.why_unavailable():
        assert any(hint in reason for hint in ("pip install", "engine")), reason
        pytest.skip(f"{peer.name}: {reason}")


@pytest.mark.parametrize("peer", convolution.ALL, ids=lambda peer: str(peer.name))
def test_convolution_peer_is_as_exact_as_it_claims(peer: type[convolution.ConvPeer]) -> None:
    contestant = peer()
    _skip_unless_there(contestant)
    for layer in SMALL:
        assert convolution.check(contestant, layer, *convolutions.operands(layer, 7, 8)).max_error <= convolution.ROUNDING
        if contestant.exact:
            assert convolution.check(contestant, layer, *convolutions.operands(layer, 8, 8)).max_error <= convolution.ROUNDING


def test_openvino_runs_int8() -> None:
    contestant = convolution.OpenVino()
    _skip_unless_there(contestant)
    for layer in SMALL:
        a, w = convolutions.operands(layer, 7, 8)
        kernels = contestant.precision(contestant.prepare(layer, a, w, 64.0))
        assert kernels.lower().count("i8") == 1, kernels


def _skip_unless_ulp() -> ulp_networks.UlpNetwork:
    contestant = ulp_networks.UlpNetwork((3, 3))
    _skip_unless_there(contestant)
    return contestant


@pytest.mark.parametrize("bits", ulp_networks.PAIRS, ids=lambda bits: f"W{bits[1]}A{bits[0]}")
def test_layer_of_ulp_is_exact(bits: tuple[int, int]) -> None:
    _skip_unless_ulp()
    for layer in SMALL:
        call = ulp_networks.layer(layer, bits)  # checked there
        assert call.method
        assert call.outputs[0].shape == (1, *layer.out, layer.filters)


def test_wrong_layer_of_ulp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _skip_unless_ulp()
    right = convolutions.requantized
    monkeypatch.setattr(convolutions, "requantized", lambda *arguments: right(*arguments) ^ 1)
    with pytest.raises(WrongResultError, match=r"ulp W3A3 3x3 7x6x8 to 16 \(.*\) is wrong by up to 1"):
        ulp_networks.layer(SMALL[0], (3, 3))


def _scores(peer: NetworkRuntime, model: models.Model, directory: Path) -> models.F32:
    path = peer.build(model, directory)
    state = peer.load(model.name, path, model.images(), 1)
    assert isinstance(peer.precision(state), str)
    return peer.result(state)


@pytest.mark.parametrize("peer", network.ALL, ids=lambda peer: str(peer.name))
def test_network_peer_gives_the_scores(peer: type[NetworkRuntime], model: models.Model, tmp_path: Path) -> None:
    contestant, other = peer(), network.OrtFloat32()
    _skip_unless_there(contestant)
    _skip_unless_there(other)
    expected, found = _scores(other, model, tmp_path), _scores(contestant, model, tmp_path)
    assert found.shape == (1, networks.CLASSES)
    if contestant.kind == "fp32":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    else:
        cosine = float((found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected))
        assert cosine > 0.9


@pytest.mark.parametrize("bits", ulp_networks.PAIRS, ids=lambda bits: f"W{bits[1]}A{bits[0]}")
def test_network_of_ulp_comes_back_from_its_file(bits: tuple[int, int], model: models.Model, tmp_path: Path) -> None:
    _skip_unless_ulp()
    contestant = ulp_networks.UlpNetwork(bits)
    assert contestant.version() == installed.version()
    path = contestant.build(model, tmp_path)
    x = model.images()
    state = contestant.load("tiny", path, x, 1)
    module, nn = contestant.network(model)
    assert sorted(layer.bits for layer in nn.made) == [bits[1]] * 6 + [8]
    assert sorted(layer.act_bits for layer in nn.made) == [bits[0]] * 6 + [8]
    assert sum(value.size for value in module.parameters()) == model.graph.parameters()
    compiled = ulp_networks.load_nn().compile(module, x)
    np.testing.assert_array_equal(contestant.result(state), compiled(x))
    assert contestant.check("tiny", path, x) > 8
    assert contestant.model_bytes(state) == compiled.nbytes


def test_a_wrong_tensor_is_found(model: models.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    contestant = _skip_unless_ulp()
    module, _ = contestant.network(model)
    x = model.images()
    layerwise.check(module, x)
    right: Callable[..., None] = ReferencePlan.depthwise

    def wrong(self: Any, *, weights: Any, **rest: Any) -> None:
        changed = weights.copy()
        changed[1, 1] = -changed[1, 1]
        right(self, weights=changed, **rest)

    monkeypatch.setattr(ReferencePlan, "depthwise", wrong)
    with pytest.raises(WrongResultError, match=r"depthwise \(depthwise.*\), tensor \d+: \d+ of \d+ values"):
        layerwise.check(module, x)


def test_memory_of_a_fresh_process(tmp_path: Path) -> None:
    contestant = _skip_unless_ulp()
    if reason := memory.why_unavailable():
        pytest.skip(reason)
    squeezenet = models.model("SqueezeNet 1.1")
    path = contestant.build(squeezenet, tmp_path)
    found = memory.of(contestant, squeezenet.name, path)
    assert 5_000_000 < found["imported"] < found["peak"] < 10**9
    with pytest.raises(RuntimeError, match="ulp W3A3 in a separate process"):
        memory.of(contestant, squeezenet.name, tmp_path / "missing")


def _cell(name: str, kind: str, ms: float, bits: tuple[int, int] | None = None, **info: Any) -> results.Cell:
    return results.Cell(name, kind, bits, 10**9, 1000, 1, [ms * 1e6, 2 * ms * 1e6, ms * 1e6], info)


def _networks_result() -> results.Result:
    def group(name: str, ulp: float, int8: float, threads: int) -> results.Group:
        used = {"imported": 50 << 20, "peak": 80 << 20}
        cells = [
            _cell("ulp W3A3", "ulp", ulp, (3, 3), threads=threads, memory=used, model_bytes=3 << 20),
            _cell("OpenVINO", "int8", int8, threads=threads, memory=used, file_bytes=8 << 20),
            _cell("QNNPACK", "int8", 5 * int8, threads=threads),
            _cell("OpenVINO fp32", "fp32", 2 * int8, threads=threads),
        ]
        return results.Group(name, (3, 224, 224), cells)

    groups = [group("ResNet-18", 5.0, 10.0, 1), group("VGG16", 5.0, 40.0, 1), group("ResNet-18, 2 threads", 3.0, 6.0, 2)]
    return results.Result("networks", ENVIRONMENT, {}, 3.2, {"OpenVINO": {"kind": "int8", "note": "as it is"}}, groups)


def _conv_result() -> results.Result:
    cells = [
        _cell("ulp W3A3", "ulp", 1.0, (3, 3), kernel="winograd_avx2_2x2"),
        _cell("oneDNN", "int8", 2.0),
        _cell("torch fp32", "fp32", 4.0),
    ]
    known = {"oneDNN": {"kind": "int8", "note": "", "safe_range": EXACT, "full_range": EXACT}}
    return results.Result("conv", ENVIRONMENT, {}, 3.2, known, [results.Group("ResNet-18 3x3", (196, 256, 2304), cells)])


def test_tables_of_networks() -> None:
    tables = network_tables.network_tables(_networks_result())
    assert [t.title for t in tables] == [
        "Networks at W3A3, one core",
        "Networks, milliseconds, one core",
        "Networks, MiB of model, and at peak",
        "Networks at W3A3, 2 threads",
        "Networks, milliseconds, 2 threads",
    ]
    one, times, sizes, *_ = tables
    assert one.rows[0] == (
        "ResNet-18",
        "5.00",
        "200",
        "4.00x [4.00-4.00] OpenVINO fp32",
        "2.00x [2.00-2.00] OpenVINO",
        "10.00x [10.00-10.00]",
    )
    assert one.rows[-1] == ("geometric mean", "", "", "8.00x", "4.00x", "20.00x")
    assert times.rows[1] == ("OpenVINO", "10.00", "40.00", "as it is")
    assert sizes.rows[0] == ("ulp W3A3", "3.0, 80 (30)", "3.0, 80 (30)")
    assert tables[3].rows == [("ResNet-18", "3.00", "333", *one.rows[0][3:])]


def test_tables_of_convolutions_and_their_place_in_the_report() -> None:
    conv = _conv_result()
    ours, theirs = network_tables.conv_tables(conv)
    assert ours.rows[0][3:6] == ("2.00x [2.00-2.00] oneDNN", "-", "4.00x [4.00-4.00] torch fp32")
    assert ours.rows[0][-1] == "winograd_avx2_2x2"
    assert theirs.rows == [("ResNet-18 3x3", "500.0", "250.0")]
    assert "exact" in theirs.note
    text = documents.performance_section({"conv": conv, "networks": _networks_result()})
    assert "**Convolutions at W3A3, one core**" in text
    assert "**Networks at W3A3, 2 threads**" in text
    assert "milliseconds, one core" not in text


def test_geometric_mean() -> None:
    assert geomean([1.0, 4.0]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no values"):
        geomean([])


def test_plots_of_networks_and_convolutions(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.reports import plots

    drawn = plots.draw({"conv": _conv_result(), "networks": _networks_result()}, tmp_path)
    assert [p.name for p in drawn] == ["conv.png", "network_resnet_18.png", "network_vgg16.png", "network_resnet_18__2_threads.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in drawn)


def test_command_line_runs_the_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _skip_unless_ulp()
    command = ["run", "conv", "--quick", "--peers", "none", "--pairs", "W2A2", "--rounds", "1", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    assert "2 results checked, 0 inexact" in capsys.readouterr().out  # a quick run says nothing of speed
    written = json.loads((tmp_path / "conv.json").read_text())
    assert [g["name"] for g in written["groups"]] == [f"small {layer.name}" for layer in convolutions.QUICK]
    assert results.load(tmp_path / "conv.json").groups[0].shape == convolutions.QUICK[0].gemm


def test_command_line_refuses_unknown_networks_and_peers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "networks", "--networks", "lenet"]) == 1
    assert "known are" in capsys.readouterr().err
    assert cli.main(["run", "conv", "--peers", "nobody"]) == 1
    assert "OpenVINO fp32" in capsys.readouterr().err
