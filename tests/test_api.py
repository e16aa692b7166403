"""Names, tables, settings and forms of arguments that users meet."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from interpreter import run_python
from reference import ALL_PAIRS, assert_exact

import ulp


def test_public_names() -> None:
    for name in ulp.__all__:
        assert getattr(ulp, name).__doc__, name
    assert re.fullmatch(r"\d+\.\d+\.\d+", ulp.__version__)


def test_first_example() -> None:
    a = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    w = ulp.pack(np.array([[-1, 2], [0, 1], [3, -4]], dtype=np.int8), bits=3)
    assert ulp.gemm(a, w).tolist() == [[8, -8], [14, -11]]


def test_forms_of_operands() -> None:
    """Lists, booleans and every integer dtype are taken by their values."""
    expected = np.array([[2, 1]])
    assert_exact(ulp.gemm([[1, 1, 0]], [[1, 0], [1, 1], [1, 1]], bits=1), expected, "lists")
    assert_exact(ulp.gemm(np.array([[True, True, False]]), np.array([[1, 0], [1, 1], [1, 1]], bool), bits=1), expected, "bool")
    for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">u4"):
        a = np.array([[1, 1, 0]], dtype=kind)
        assert_exact(ulp.gemm(a, np.array([[1, 0], [1, 1], [1, 1]], dtype=kind), bits=2), expected, str(kind))


def test_a_vector_gives_a_vector() -> None:
    w = ulp.pack(np.ones((4, 3), dtype=np.uint8), 2)
    c = ulp.gemm(np.array([1, 2, 3, 0], dtype=np.uint8), w)
    assert c.tolist() == [6, 6, 6]
    out = np.empty(3, dtype=np.int32)
    assert ulp.gemm(np.array([1, 2, 3, 0], dtype=np.uint8), w, out=out) is out
    assert out.tolist() == [6, 6, 6]


def test_bits_in_all_forms() -> None:
    a = np.array([[200, 7]], dtype=np.uint8)
    b = np.array([[1], [-2]], dtype=np.int8)
    for bits in ((8, 2), [8, 2], (np.int64(8), np.uint8(2))):
        assert ulp.gemm(a, b, bits=bits).tolist() == [[186]]  # type: ignore[arg-type]  # lists and numpy integers are welcome, too
    w = ulp.pack(b, bits=2)
    assert ulp.gemm(a, w, bits=(8, 2)).tolist() == [[186]]
    assert ulp.gemm(a % 4, w, bits=2).tolist() == ulp.gemm(a % 4, w).tolist() == [[-6]]


def test_mixed_widths_follow_the_packed_matrix() -> None:
    """a's bits default to b's: a value that needs more is refused, not cut."""
    w = ulp.pack(np.ones((1, 1), dtype=np.int8), bits=2)
    with pytest.raises(ValueError, match=r"a\[0, 0\] = 4"):
        ulp.gemm(np.array([[4]], dtype=np.uint8), w)


def test_out_may_overlap_a() -> None:
    memory = np.zeros(64, dtype=np.int32)
    a = memory.view(np.uint8)[:64].reshape(8, 8)
    a[...] = np.arange(64, dtype=np.uint8).reshape(8, 8) % 8
    b = np.arange(64, dtype=np.int8).reshape(8, 8) % 4
    expected = a.astype(np.int64) @ b
    out = memory.reshape(8, 8)
    assert ulp.gemm(a, b, bits=3, out=out) is out
    assert_exact(out, expected, "overlapping")
    zeros = np.arange(8, dtype=np.int32)
    sums = ulp.gemm([[1] * 8], b, bits=3, b_zero=zeros)
    assert_exact(ulp.gemm([[1] * 8], b, bits=3, b_zero=zeros, out=zeros[None, :]), sums, "out is b_zero")


def test_bipolar() -> None:
    a = np.array([[1, -1, 1, 1]], dtype=np.int8)
    b = np.array([[1, -1], [1, 1], [-1, -1], [1, 1]], dtype=np.int8)
    assert ulp.gemm(a, b, bits=1).tolist() == [[0, -2]]
    assert ulp.gemm(a.astype(np.int64), b.astype(np.int64), bits=1).tolist() == [[0, -2]]


@pytest.mark.parametrize("kernel", ulp.kernels(), ids=str)
def test_kernel_names_follow_the_grammar(kernel: ulp.Kernel) -> None:
    """<technique>_<isa>_<mr>x<nr>; files of the baseline ISA say scalar, because that is how they are written."""
    isa = "scalar" if kernel.isa == "baseline" else kernel.isa
    assert re.fullmatch(r"[a-z][a-z0-9]*(_p[124])?", kernel.technique)
    assert kernel.name == f"{kernel.technique}_{isa}_{kernel.mr}x{kernel.nr}"
    assert kernel.pairs <= set(ALL_PAIRS)
    assert kernel.pairs


def test_every_row_of_every_isa_has_a_name_of_the_grammar_and_a_file() -> None:
    csrc = Path(__file__).parents[1] / "csrc" / "gemm"
    rows = re.findall(r'\{"(\w+)", "(\w+)", Isa::(\w+), (\d+), (\d+),', (csrc / "kernels.cpp").read_text(encoding="utf-8"))
    assert {kernel.name for kernel in ulp.kernels()} < {name for name, *_ in rows}
    for name, technique, isa, mr, nr in rows:
        stem = f"{technique}_{'scalar' if isa == 'baseline' else isa}"
        assert re.fullmatch(r"[a-z][a-z0-9]*(_p[124])?", technique), name
        assert name == f"{stem}_{mr}x{nr}"
        assert (csrc / f"{stem}.cpp").is_file(), name


def test_kernel_table() -> None:
    table = ulp.kernels()
    assert len(set(table.names)) == len(table)
    assert {pair for kernel in table if kernel.isa == "baseline" for pair in kernel.pairs} == set(ALL_PAIRS), "the baseline runs every pair"
    for pair in ((1, 1), (3, 3), (8, 2)):
        some = ulp.kernels(bits=pair)
        assert some.names == [kernel.name for kernel in table if pair in kernel.pairs]
    assert ulp.kernels(bits=3) == ulp.kernels(bits=(3, 3))
    lines = str(table).splitlines()
    assert len(lines) == len(table) + 1
    assert lines[0].split()[:3] == ["kernel", "technique", "isa"]
    assert repr(table) == str(table)


@pytest.mark.parametrize("pair", [(1, 1), (3, 3), (2, 8), (8, 8)])
def test_explain(pair: tuple[int, int]) -> None:
    for signs in ((False, True), (True, False)):
        for shape in ((512, 512, 512), (1, 4096, 4096), (0, 0, 0), (3, 5, 7)):
            explanation = ulp.explain(*shape, bits=pair, a_signed=signs[0], b_signed=signs[1])
            assert sorted(c.name for c in explanation.candidates) == sorted(ulp.kernels().names)
            order = [c.runnable for c in explanation.candidates]
            assert order == sorted(order, reverse=True), "what runs comes first"
            for candidate in explanation.candidates:
                assert bool(candidate.reason) != candidate.runnable
                assert math.isnan(candidate.seconds) or candidate.seconds >= 0
            text = str(explanation)
            assert explanation.kernel in text.splitlines()[0]
            assert sum(line.startswith("->") for line in text.splitlines()) == 1


def test_explain_says_what_runs() -> None:
    """The kernel that explain names is the kernel that ULP_VERBOSE reports."""
    program = (
        "import numpy as np, ulp; a = np.ones((5, 40), np.uint8); b = np.ones((40, 9), np.int8); ulp.gemm(a, b, bits=(4, 2)); "
        "print(ulp.explain(5, 9, 40, bits=(4, 2)).kernel)"
    )
    done = run_python(program, ULP_VERBOSE="1")
    assert done.stderr.split()[1] == done.stdout.strip()


def test_isas() -> None:
    available = ulp.available_isas()
    assert available[-1] == "baseline"
    for isa in available:
        ulp.set_isa(isa)
        assert ulp.get_isa() == isa
        usable = set(available[available.index(isa) :])
        assert all(kernel.available == (kernel.isa in usable) for kernel in ulp.kernels())
        chosen = ulp.explain(64, 64, 64, bits=3).kernel
        assert {kernel.isa for kernel in ulp.kernels() if kernel.name == chosen} <= usable
        assert ulp.show_config("dict")["ISA in force"].startswith(isa)


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    ulp.show_config()
    printed = capsys.readouterr().out
    facts = ulp.show_config("dict")
    for name, fact in facts.items():
        assert name in printed
        assert fact in printed
    assert facts["version"] == ulp.__version__
    assert facts["CUDA module"].startswith(("not built", "CUDA 1"))
    assert facts["CUDA devices"].startswith(("none", "0: "))
    assert facts["compiler"]
    assert facts["CPU"]


def test_max_isa() -> None:
    program = "import ulp; print(ulp.get_isa(), *ulp.available_isas()); ulp.set_isa({!r})"
    done = run_python(program.format("baseline"), ULP_MAX_CPU_ISA="baseline")
    assert (done.returncode, done.stdout) == (0, "baseline baseline\n")
    full = run_python(program.format("baseline"), ULP_MAX_CPU_ISA="").stdout.split()[1:]
    for isa in full:
        assert run_python(program.format(isa), ULP_MAX_CPU_ISA=isa).stdout.split()[0] == isa
    if full[0] != "baseline":
        done = run_python(program.format(full[0]), ULP_MAX_CPU_ISA="baseline")
        assert f"instruction set {full[0]!r} is above ULP_MAX_CPU_ISA=baseline; available here: baseline" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ULP_MAX_CPU_ISA", "sse9", r"ULP_MAX_CPU_ISA='sse9' is unknown; this build knows .*baseline"),
        ("ULP_MAX_CPU_ISA", "AVX2 ", r"ULP_MAX_CPU_ISA='AVX2 ' is unknown"),
        ("ULP_VERBOSE", "yes", r"ULP_VERBOSE='yes': expected 0 or 1"),
        ("ULP_VERBOSE", "2", r"ULP_VERBOSE='2': expected 0 or 1"),
    ],
)
def test_a_wrong_variable_is_an_error(name: str, value: str, message: str) -> None:
    done = run_python("import ulp", **{name: value})
    assert done.returncode != 0
    assert re.search(message, done.stderr)


CALLS = """
import numpy as np, ulp
a = np.ones((2, 3, 40), np.uint8)
w = ulp.pack(np.ones((40, 9), np.int8), 2)
ulp.gemm(a[0], w)
ulp.gemm(a, w, bits=(8, 2), scale=0.5, out_bits=4)
ulp.gemm(a[0], np.ones((40, 2), np.uint8), bits=3)
ulp.gemm(a[0, :0], w)
"""


def test_verbose() -> None:
    done = run_python(CALLS, ULP_VERBOSE="1")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    names = "|".join(map(re.escape, ulp.kernels().names))
    tail = r" \d+\.\d{3} ms \d+\.\d\d GMAC/s"
    patterns = [
        rf"ulp: ({names}) MxNxK=3x9x40 a=u2 b=s2 -> int32{tail}",
        rf"ulp: ({names}) MxNxK=6x9x40 a=u8 b=s2 -> uint8{tail}",
        rf"ulp: ({names}) MxNxK=3x2x40 a=u3 b=u3 -> int32{tail} \(\+ \d+\.\d{{3}} ms to pack b\)",
        rf"ulp: ({names}) MxNxK=0x9x40 a=u2 b=s2 -> int32{tail}",
    ]
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    for value in ("", "0"):
        assert run_python(CALLS, ULP_VERBOSE=value).stderr == ""


def test_typing_marker_is_installed() -> None:
    import importlib.resources

    assert importlib.resources.files("ulp").joinpath("py.typed").is_file()
