"""What goes in comes out: torch tensors, floats of 16 bits, integers of other packages; bits as tables write them; tables in notebooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import assert_exact, matmul, random_matrix

import ulp
from ulp import nn

A = random_matrix(np.random.default_rng(0), (5, 40), 3, False)
B = random_matrix(np.random.default_rng(1), (40, 9), 3, True)
IMAGES = np.random.default_rng(2).random((2, 3, 8, 8), dtype=np.float32)


def network() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bits="W3A4"), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5, bits=3)).calibrate([IMAGES])


def test_bits_as_tables_write_them() -> None:
    want = matmul(A, B)
    assert_exact(ulp.gemm(A, B, bits="W3A4"), want, "gemm")
    assert_exact(ulp.gemm(A, ulp.pack(B, bits="W3A8"), bits="w3a4"), want, "packed")
    assert ulp.pack(B, bits="W4A8").bits == 4
    assert str(ulp.explain(5, 9, 40, bits="W3A4")) == str(ulp.explain(5, 9, 40, bits=(4, 3)))
    assert ulp.kernels(bits="W3A4").names == ulp.kernels(bits=(4, 3)).names
    assert {(layer.bits, layer.act_bits) for layer in (nn.Conv2d(3, 4, 3, bits="W3A8"), nn.Linear(3, 4, bits="W3A8", act_bits=8))} == {
        (3, 8)
    }
    with pytest.raises(ValueError, match="bits='W3A8' with act_bits=4"):
        nn.Linear(3, 4, bits="W3A8", act_bits=4)
    errors: dict[str, type[Exception]] = {"W9A3": ValueError, "W3A33": ValueError, **dict.fromkeys(["W3", "3", "A3W3", ""], TypeError)}
    for wrong, error in errors.items():
        with pytest.raises(error, match=f"bits='{wrong}': expected"):
            ulp.gemm(A, B, bits=wrong)
        with pytest.raises(error, match=f"bits='{wrong}'"):
            nn.Linear(3, 4, bits=wrong)


@pytest.mark.parametrize("name", ["int2", "uint2", "int4", "uint4"])
def test_integers_of_ml_dtypes(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits, signed = int(name[-1]), name[0] == "i"
    values = random_matrix(np.random.default_rng(0), (40, 9), bits, signed)
    packed = ulp.pack(values.astype(getattr(ml_dtypes, name)), bits=bits)
    assert packed.signed == signed
    assert (np.asarray(packed) == values).all()
    assert_exact(ulp.gemm(A, values.astype(getattr(ml_dtypes, name)), bits=(3, bits)), matmul(A, values), name)


def test_packed_weights_as_an_array() -> None:
    packed = ulp.pack(B, bits=3)
    for made in (np.asarray(packed), np.array(packed), np.array(packed, dtype=np.int8)):
        assert made.dtype == np.int8
        assert (made == B).all()
    assert np.asarray(packed, dtype=np.float32).dtype == np.float32
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        with pytest.raises(ValueError, match="copy=False forbids"):
            np.array(packed, copy=False)


def test_weights_the_wrong_way_round() -> None:
    with pytest.raises(ValueError, match=r"did you mean b\.T\?"):
        ulp.gemm(A, np.ascontiguousarray(B.T), bits=3)


def test_floats_of_16_bits() -> None:
    layers = network()
    compiled = nn.compile(layers, IMAGES, tune=False)
    half = IMAGES.astype(np.float16)
    want = layers(half.astype(np.float32)).astype(np.float16)
    for run in (compiled, compiled.run):
        made = run(half)
        assert made.dtype == np.float16
        assert (made == want).all()
    assert layers(half).dtype == np.float16  # each layer rounds its result
    assert layers(IMAGES.astype(np.float64)).dtype == np.float32


def test_torch_tensors_give_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    a, b = torch.from_numpy(A), torch.from_numpy(B)
    for left, right in ((a, B), (a, b), (a, ulp.pack(b, bits=3))):
        made = ulp.gemm(left, right, bits=3)
        assert isinstance(made, torch.Tensor)
        assert_exact(made.numpy(), matmul(A, B), "tensor")
    assert isinstance(ulp.gemm(A, b, bits=3), np.ndarray)
    assert ulp.gemm(a, b, bits=3, scale=0.5).dtype == torch.float32
    out = torch.empty(5, 9, dtype=torch.int32)
    assert ulp.gemm(A, B, bits=3, out=out) is out
    assert_exact(out.numpy(), matmul(A, B), "out")
    layers = network()
    compiled = nn.compile(layers, IMAGES, tune=False)
    x = torch.from_numpy(IMAGES)
    for run in (layers, compiled):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            made = run(x.to(dtype))
            assert made.dtype == dtype
            if run is compiled:  # layers one after another round their results to 16 bits
                assert torch.equal(made, torch.from_numpy(layers(x.to(dtype).float().numpy())).to(dtype))
    codes = nn.compile(layers, IMAGES, tune=False, codes_in=True)
    assert isinstance(codes(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), torch.Tensor)
    with pytest.raises(TypeError, match="expected floats, pass"):
        layers(torch.zeros(1, 3, 8, 8, dtype=torch.int32))


def test_tables_in_notebooks() -> None:
    compiled = nn.compile(network(), IMAGES, tune=False)
    profile = compiled.profile(IMAGES, runs=2)
    for shown in (ulp.kernels(bits=3), ulp.explain(8, 8, 8, bits=3), compiled, profile):
        html = shown._repr_html_()
        assert html.count("<tr>") == html.count("</tr>") >= 2
        assert "<table>" in html
    assert "-&gt;" in compiled._repr_html_()
    assert profile.runs == 2


def test_one_name_per_thing() -> None:
    """The columns of tables are attributes of their rows."""

    def attributes(shown: Any) -> list[str]:
        heads = shown._table().heads
        return [head.partition(" (")[0].replace(" ", "_").replace("GMAC/s", "gmacs") for head in heads if head]

    compiled = nn.compile(network(), IMAGES, tune=False)
    profile = compiled.profile(IMAGES)
    explanation, kernels = ulp.explain(8, 8, 8, bits=3), ulp.kernels(bits=3)
    for shown, row in ((profile, profile.rows[0]), (explanation, explanation.candidates[0]), (kernels, kernels[0])):
        for name in attributes(shown):
            assert hasattr(row, name), name
    assert {row.runs_in for row in profile} == {"integers"}
    row = profile.rows[1]
    assert (row.kind, row.method) == (row.type, row.kernel)
    candidate = explanation.candidates[0]
    assert (candidate.name, candidate.reason, candidate.ms) == (candidate.kernel, candidate.why, 1e3 * candidate.seconds)
