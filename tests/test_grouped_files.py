"""Layers of GPTQ, AWQ and bitsandbytes from safetensors files, written here as those projects write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ulp
from ulp import _tensorfile

F16, F32 = np.float16, np.float32
K, N, GROUP = 128, 32, 32
RNG = np.random.default_rng(0)


def words_of(codes: Any, bits: int) -> Any:
    """GPTQ's order along the first axis: value by value as their packers do it, the upper part of one that crosses a word into the next."""
    rows, columns = codes.shape
    words = np.zeros((rows * bits // 32, columns), np.uint64)
    for i in range(rows):
        word, shift = divmod(i * bits, 32)
        value = codes[i].astype(np.uint64) << np.uint64(shift)
        words[word] |= value & np.uint64(0xFFFFFFFF)
        if shift + bits > 32:
            words[word + 1] |= value >> np.uint64(32)
    return words.astype(np.uint32).view(np.int32)


def save(path: Path, arrays: dict[str, Any]) -> Path:
    path.write_bytes(b"".join(_tensorfile.write(arrays, {"format": "pt"})))
    return path


def gptq(bits: int, less: int = 1) -> tuple[dict[str, Any], Any]:
    codes, zeros = RNG.integers(0, 2**bits, (K, N)), RNG.integers(0, 2**bits, (K // GROUP, N))
    scales = RNG.random((K // GROUP, N)).astype(F16)
    stored = (zeros - less) & (2**bits - 1)
    arrays = {
        "model.q.qweight": words_of(codes, bits),
        "model.q.qzeros": np.ascontiguousarray(words_of(stored.T, bits).T),
        "model.q.scales": scales,
        "model.q.g_idx": (np.arange(K) // GROUP).astype(np.int32),
        "model.q.bias": np.arange(N, dtype=F16),
        "model.norm": np.ones(7, F32),
    }
    of = np.arange(K) // GROUP
    return arrays, (codes - zeros[of]) * scales.astype(F32)[of]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("zeros", ["gptq", "gptq_v2"])
def test_gptq(bits: int, zeros: Any, tmp_path: Path) -> None:
    arrays, values = gptq(bits, 1 if zeros == "gptq" else 0)
    layers = ulp.load_grouped(save(tmp_path / "m.safetensors", arrays), zeros=zeros)
    assert list(layers) == ["model.q"]
    layer = layers["model.q"]
    assert (layer.source, layer.matrix.bits, layer.matrix.group_size) == ("gptq", bits, GROUP)
    np.testing.assert_allclose(layer.matrix.dequantize(), values, rtol=1e-6)
    np.testing.assert_array_equal(layer.bias, np.arange(N, dtype=F32))
    x = RNG.standard_normal((3, K)).astype(F32)
    made = ulp.nn.GroupedLinear.from_matrix(layer.matrix, layer.bias)(x)
    np.testing.assert_allclose(made, x @ values + np.arange(N), atol=0.02 * np.abs(x @ values).max())


def test_gptq_in_act_order(tmp_path: Path) -> None:
    arrays, _ = gptq(4)
    of = RNG.permutation(np.arange(K) // GROUP).astype(np.int32)
    codes, _ = np.divmod(np.arange(K * N).reshape(K, N) * 7, 16)
    codes = codes % 16
    zeros = RNG.integers(0, 16, (K // GROUP, N))
    arrays |= {"model.q.g_idx": of, "model.q.qweight": words_of(codes, 4)}
    arrays["model.q.qzeros"] = np.ascontiguousarray(words_of(((zeros - 1) & 15).T, 4).T)
    values = (codes - zeros[of]) * arrays["model.q.scales"].astype(F32)[of]
    layer = ulp.load_grouped(save(tmp_path / "m.safetensors", arrays))["model.q"]
    assert layer.order is not None
    np.testing.assert_array_equal(layer.matrix.dequantize(), values[layer.order])
    made = ulp.nn.GroupedLinear.from_matrix(layer.matrix, layer.bias, order=layer.order)
    np.testing.assert_array_equal(made.weight, values.T)
    x = RNG.standard_normal((2, 5, K)).astype(F32)
    want = x @ values + np.arange(N)
    np.testing.assert_allclose(made(x), want, atol=0.02 * np.abs(want).max())
    for given in (x, x[0]):
        np.testing.assert_array_equal(ulp.nn.compile(made, given, tune=False)(given), made(given))
    again = ulp.nn.GroupedLinear(K, N, bits=4, group_size=GROUP)
    again.load_state_dict(made.state_dict())
    np.testing.assert_array_equal(again(x), made(x))
    again.weight = values.T  # in the same groups
    assert np.abs(again.weight - values.T).max() <= 2 * np.abs(values).max() / 15
    with pytest.raises(ulp.nn.LayerError, match="each of 0"):
        ulp.nn.GroupedLinear.from_matrix(layer.matrix, order=np.zeros(K, int))


def test_awq(tmp_path: Path) -> None:
    codes, zeros = RNG.integers(0, 16, (K, N)), RNG.integers(0, 16, (K // GROUP, N))
    scales = RNG.random((K // GROUP, N)).astype(F16)

    def packed(values: Any) -> Any:
        words = np.zeros((len(values), N // 8), np.uint32)
        for column in range(N // 8):
            for i, other in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                words[:, column] |= values[:, column * 8 + other].astype(np.uint32) << np.uint32(4 * i)
        return words.view(np.int32)

    arrays = {"q.qweight": packed(codes), "q.qzeros": packed(zeros), "q.scales": scales}
    layer = ulp.load_grouped(save(tmp_path / "m.safetensors", arrays))["q"]
    of = np.arange(K) // GROUP
    assert layer.source == "awq"
    np.testing.assert_allclose(layer.matrix.dequantize(), (codes - zeros[of]) * scales.astype(F32)[of], rtol=1e-6)


def bitsandbytes(nested: bool, kind: str = "nf4") -> tuple[dict[str, Any], Any]:
    table = np.sort(RNG.standard_normal(16)).astype(F32) / 4
    codes = RNG.integers(0, 16, (N, K)).astype(np.uint8)
    flat = codes.reshape(-1)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [N, K]}
    arrays: dict[str, Any] = {"fc.weight": (flat[::2] << 4 | flat[1::2]).reshape(-1, 1), "fc.weight.quant_map": table}
    blocks = N * K // 64
    absmax = RNG.random(blocks).astype(F32)
    if nested:
        state |= {"nested_blocksize": 16, "nested_dtype": "float32", "nested_offset": 0.25}
        outer, inner = RNG.random(-(-blocks // 16)).astype(F32), np.linspace(-1, 1, 256).astype(F32)
        small = RNG.integers(0, 256, blocks).astype(np.uint8)
        arrays |= {"fc.weight.absmax": small, "fc.weight.nested_absmax": outer, "fc.weight.nested_quant_map": inner}
        absmax = inner[small] * np.repeat(outer, 16)[:blocks] + F32(0.25)
    else:
        arrays["fc.weight.absmax"] = absmax
    arrays[f"fc.weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return arrays, (table[codes].reshape(-1, 64) * absmax[:, None]).reshape(N, K)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes(nested: bool, kind: str, tmp_path: Path) -> None:
    arrays, values = bitsandbytes(nested, kind)
    layer = ulp.load_grouped(save(tmp_path / "m.safetensors", arrays))["fc"]
    assert layer.source == "bitsandbytes"
    np.testing.assert_allclose(layer.matrix.dequantize(), values.T, rtol=1e-5, atol=1e-6)
    x = RNG.standard_normal((2, K)).astype(F32)
    np.testing.assert_allclose(layer.matrix.linear(x), x @ values.T, atol=0.03 * np.abs(x @ values.T).max())


def test_bfloat16_scales(tmp_path: Path) -> None:
    arrays, values = gptq(4)
    raw = _tensorfile.write({**arrays, "model.q.scales": arrays["model.q.scales"].astype(F32).view(np.uint16)[:, 1::2].copy()}, {})
    text = b"".join(raw)
    size = int.from_bytes(text[:8], "little")
    header = json.loads(text[8 : 8 + size].replace(b'"U16"', b'"BF16"'))
    header.pop("__metadata__")
    again = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(len(again).to_bytes(8, "little") + again + text[8 + size :])
    layer = ulp.load_grouped(tmp_path / "m.safetensors")["model.q"]
    np.testing.assert_allclose(layer.matrix.dequantize(), values, rtol=2**-7, atol=1e-6)


def test_hostile_files(tmp_path: Path) -> None:
    """Every array of every format left out, of another shape, of another dtype, and with other numbers: a ValueError, or a layer."""
    made, said = 0, []
    for arrays in (gptq(4)[0], gptq(3)[0], bitsandbytes(True)[0], bitsandbytes(False)[0]):
        for name, array in arrays.items():
            others = [
                None,
                array[:0],
                array.reshape(-1),
                np.concatenate([array, array]),
                array.astype(F32),
                array.astype(np.int64),
                np.zeros_like(array),
                np.full_like(array, np.nan) if array.dtype.kind == "f" else np.full_like(array, np.iinfo(array.dtype).max),
            ]
            for other in others:
                changed = {**arrays, name: other}
                path = save(tmp_path / "m.safetensors", {key: value for key, value in changed.items() if value is not None})
                try:
                    layers = ulp.load_grouped(path)
                except ValueError as error:
                    said.append(str(error))
                    continue
                for layer in layers.values():
                    layer.matrix.linear(np.ones((1, layer.matrix.shape[0]), F32))
                    made += 1
    assert made > 0
    assert all(text.startswith(str(tmp_path)) for text in said)
    states: list[Any] = [
        {},
        [],
        {"shape": [N, K]},
        {"shape": [N, -K], "blocksize": 64},
        {"shape": [2**40, 1], "blocksize": 1},
        {"shape": "x"},
    ]
    for state in states:
        arrays, _ = bitsandbytes(False)
        arrays["fc.weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
        with pytest.raises(ValueError, match="layer 'fc'"):
            ulp.load_grouped(save(tmp_path / "m.safetensors", arrays))
    for offset in (10**400, -1e39, None):
        arrays, _ = bitsandbytes(True)
        name = "fc.weight.quant_state.bitsandbytes__nf4"
        state = json.loads(arrays[name].tobytes()) | {"nested_offset": offset}
        arrays[name] = np.frombuffer(json.dumps(state).encode(), np.uint8)
        with pytest.raises(ValueError, match="nested_offset"):
            ulp.load_grouped(save(tmp_path / "m.safetensors", arrays))
    arrays, _ = gptq(4)
    arrays["model.q.g_idx"] = arrays["model.q.g_idx"] // 2
    with pytest.raises(ValueError, match="does not name 4 groups of 32"):
        ulp.load_grouped(save(tmp_path / "m.safetensors", arrays))
    (tmp_path / "m.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="no safetensors file"):
        ulp.load_grouped(tmp_path / "m.safetensors")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.filterwarnings("ignore")  # of other packages
def test_bitsandbytes_own_packing(kind: str, nested: bool, tmp_path: Path) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(256, 128, quant_type=kind, compress_statistics=nested, compute_dtype=torch.float32)
    layer.load_state_dict(torch.nn.Linear(256, 128).state_dict())
    layer = layer.to("cpu")
    x = torch.randn(4, 256)
    with torch.no_grad():
        want = layer(x).numpy()
    arrays = {f"q.{name}": tensor.contiguous().numpy() for name, tensor in layer.state_dict().items()}
    made = ulp.load_grouped(save(tmp_path / "m.safetensors", arrays))["q"]
    values = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).reshape(128, 256).numpy()
    np.testing.assert_array_equal(made.matrix.dequantize().T, values)
    np.testing.assert_allclose(made.matrix.linear(x.numpy(), made.bias), want, atol=0.02 * np.abs(want).max())
