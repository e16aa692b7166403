"""Imports and includes point one way: no circles, and a lower layer never knows a higher one. Read from the sources; nothing is run."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="the sources are not beside the tests")

# The only imports that may point upward: (importer, imported) and why.
LAZY_ENTRY_POINTS = {
    ("ulp", "ulp.nn"): "an attribute of ulp, imported when it is first used, so that importing ulp stays quick",
    ("ulp", "ulp.onnx"): "likewise, and ulp.load",
    ("ulp", "ulp.quantize"): "likewise",
    ("ulp", "ulp._bridge.compile"): "likewise, and ulp.compile",
    ("ulp", "ulp._bridge.export"): "likewise, and ulp.export",
    ("ulp", "ulp.torch"): "likewise",
    ("ulp.torch.backend", "ulp._bridge.dynamo"): "the backend of torch.compile, imported at its first graph",
    ("ulp.onnx", "ulp.quantize"): "ulp.load quantizes float models where it is asked to",
}

# Layers of ulp, lowest first. A module belongs to the longest prefix that fits, and imports from its own layer and those below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("ulp._core", "ulp._cuda"),
    ("ulp.",),
    ("ulp.nn",),
    ("ulp.onnx", "ulp.quantize", "ulp.torch", "ulp._torch_layers", "ulp._quantized"),
    ("ulp._bridge",),
    ("ulp", "ulp.__main__", "ulp.demo", "ulp.demo_sentences"),
)
# Of one layer, but none imports the other.
STRANGERS = ("ulp.onnx", "ulp.torch")

# Folders of csrc, each with those that it may include. Files in csrc itself are bindings and may include all.
INCLUDES: dict[str, set[str]] = {
    "pack": set(),
    "gemm": {"pack"},
    "ops": {"gemm", "pack"},
    "conv": {"ops", "gemm", "pack"},
    "plan": {"conv", "ops", "gemm", "pack"},
    "cuda": {"plan", "ops", "gemm", "pack"},
}
PYTHON_HEADER = re.compile(r"pybind11/|Python\.h$")
INTRINSICS = re.compile(r"(immintrin|x86intrin|emmintrin|arm_neon|arm_sve)\.h$")
# It asks the CPU for its instruction sets (_xgetbv), and is built for the baseline.
DETECTION = {"gemm/isa.cpp", "gemm/cpu.cpp", "gemm/x86_features.h"}
# SSE2 alone, which every x86-64 has: emmintrin.h declares nothing newer.
SSE2 = {"pack/pack.cpp"}


class Import(NamedTuple):
    """One import statement of a module."""

    module: str
    """What is imported: a module, or a package for a name in its __init__."""
    name: str
    """The name that is taken from it; "" for the module itself."""
    line: int


def modules_of(package: Path) -> dict[str, Path]:
    """All modules of a package by name; compiled ones by their stubs."""
    found = {}
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.pyi")]):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def syntax_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """What a file imports of `known` modules, anywhere in it: in functions and for annotations, too, and by import_module("name")."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(syntax_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in known:
                    yield Import(alias.name, "", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                if f"{source}.{alias.name}" in known:
                    yield Import(f"{source}.{alias.name}", "", node.lineno)
                elif source in known:
                    yield Import(source, alias.name, node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and target.value in known:
                yield Import(str(target.value), "", node.lineno)


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected parts of more than one node, or of one that points to itself (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1 or node in graph[node]:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


@functools.cache
def python_graph() -> dict[str, set[str]]:
    """Each module of ulp with those that it imports, lazy entry points left out."""
    modules = modules_of(ROOT / "ulp")
    return {
        name: {found.module for found in imports_of(path, modules) if (name, found.module) not in LAZY_ENTRY_POINTS}
        for name, path in modules.items()
    }


def layer(module: str) -> int:
    def length(prefix: str) -> int:
        fits = module == prefix or module.startswith(prefix if prefix.endswith(".") else f"{prefix}.")
        return len(prefix) if fits and (prefix != "ulp" or module == "ulp") else -1

    return max(range(len(LAYERS)), key=lambda number: max(map(length, LAYERS[number])))


def test_circles_are_found() -> None:
    assert circles({"a": "b", "b": "c", "c": "b", "d": "d", "e": "a"}) == [["b", "c"], ["d"]]
    assert circles({"a": "bc", "b": "c", "c": ""}) == []


def test_layers_by_name() -> None:
    names = (
        "ulp._core",
        "ulp._gpu.gemm",
        "ulp.packed",
        "ulp.nn",
        "ulp.nn.graph",
        "ulp.onnx.rules.moves",
        "ulp.torch",
        "ulp._bridge.names",
        "ulp",
    )
    assert [layer(name) for name in names] == [0, 1, 1, 2, 2, 3, 3, 4, 5]


def test_no_import_circle() -> None:
    assert circles(python_graph()) == []


def test_layers_import_downward() -> None:
    upward = [f"{a} imports {b}" for a, targets in python_graph().items() for b in targets if layer(b) > layer(a)]
    assert upward == []
    for one, other in (STRANGERS, STRANGERS[::-1]):
        assert [a for a, targets in python_graph().items() if a.startswith(one) and any(b.startswith(other) for b in targets)] == []


def test_what_runs_products_does_not_know_what_calls_it() -> None:
    """`ulp.gemm` hands a checked call to the CPU or the GPU."""
    graph = python_graph()
    reached = {"ulp._cpu", "ulp._gpu.gemm"}
    while more := {b for a in reached for b in graph.get(a, ())} - reached:
        reached |= more
    assert not reached & {"ulp", "ulp._gemm", "ulp._explain", "ulp._tune"}
    assert not {module for module in reached if module.startswith(("ulp.nn", "ulp.onnx", "ulp.torch"))}


def test_every_lazy_entry_point_is_one() -> None:
    """Importing ulp imports none of them."""
    modules = modules_of(ROOT / "ulp")
    for importer, imported in LAZY_ENTRY_POINTS:
        for node in syntax_of(modules[importer]).body:
            if isinstance(node, ast.ImportFrom):
                assert f"ulp.{node.module}" != imported
                assert not (node.module is None and any(f"ulp.{alias.name}" == imported for alias in node.names))


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in suffixes)


def includes_of(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), re.M)


def resolved(path: Path, name: str) -> str | None:
    """The file of csrc that an #include means, as a path from csrc; None for others."""
    for base in (path.parent, CSRC):
        candidate = (base / name).resolve()
        if candidate.is_file() and candidate.is_relative_to(CSRC.resolve()):
            return candidate.relative_to(CSRC.resolve()).as_posix()
    return None


def include_graph() -> dict[str, list[str]]:
    files = sources(".h", ".cuh", ".cpp", ".cu")
    return {p.relative_to(CSRC).as_posix(): [r for name in includes_of(p) if (r := resolved(p, name))] for p in files}


def isas() -> list[str]:
    """The suffixes of files that are built with flags of their own."""
    names = re.findall(r"ulp_add_isa\(\w+ (\w+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    return [name for name in names if name != "scalar"]


def test_no_include_circle() -> None:
    assert circles(include_graph()) == []


def test_folders_include_downward() -> None:
    wrong = []
    for path, targets in include_graph().items():
        folder = path.partition("/")[0] if "/" in path else None
        for target in targets:
            other = target.partition("/")[0] if "/" in target else "bindings"
            bindings = "bindings" in path and other == "bindings"  # those of a GPU share the helpers of the others
            if folder is not None and not bindings and other not in {folder, *INCLUDES[folder]}:
                wrong.append(f"{path} includes {target}")
    assert wrong == []


def test_only_bindings_know_python() -> None:
    with_python = {
        p.relative_to(CSRC).as_posix() for p in sources(".h", ".cuh", ".cpp", ".cu") if any(map(PYTHON_HEADER.search, includes_of(p)))
    }
    assert with_python
    assert {path for path in with_python if "bindings" not in Path(path).name} == set()


def test_intrinsics_are_in_files_of_an_isa() -> None:
    """A file built for the baseline that included them, even by another header, could run an instruction that the CPU lacks."""
    graph = include_graph()
    ends = tuple(f"_{isa}.{suffix}" for isa in isas() for suffix in ("h", "cpp"))
    assert "_avx2.cpp" in ends
    direct = {path for path in graph if any(map(INTRINSICS.search, includes_of(CSRC / path)))}
    assert {path for path in direct if not path.endswith(ends)} <= DETECTION | SSE2
    for path in SSE2:
        assert {Path(name).name for name in includes_of(CSRC / path) if INTRINSICS.search(name)} == {"emmintrin.h"}
    direct -= SSE2

    def reach(path: str) -> set[str]:
        found, todo = set(), [path]
        while todo:
            if (one := todo.pop()) not in found:
                found.add(one)
                todo += graph[one]
        return found

    baseline = [path for path in graph if path.endswith(".cpp") and not path.endswith(ends) and path not in DETECTION]
    assert {path: reach(path) & direct for path in baseline if reach(path) & direct} == {}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def names_of(folder: str) -> dict[str, Path]:
    """Modules by the names under which they can be imported: tests are on the path themselves."""
    modules = modules_of(ROOT / folder) if (ROOT / folder).is_dir() else {}
    if folder == "tests":
        modules |= {name.partition(".")[2]: path for name, path in modules.items() if "." in name}
    return modules


@pytest.mark.parametrize("folder", ["bench", "tools"])
def test_measuring_and_proving_do_not_import_tests(folder: str) -> None:
    tests = names_of("tests")
    assert [f"{path}:{found.line} {found.module}" for path in python_files(folder) for found in imports_of(path, tests)] == []


@pytest.mark.parametrize("folder", ["bench", "tests", "tools"])
def test_nothing_imports_private_parts_of_another_folder(folder: str) -> None:
    private = re.compile(r"(^|\.)_(?!_)")
    wrong = []
    for other in {"bench", "tests", "tools"} - {folder}:
        modules = names_of(other)
        for path in python_files(folder):
            for found in imports_of(path, modules):
                if private.search(found.module) or private.match(found.name):
                    wrong.append(f"{path.relative_to(ROOT)}:{found.line} {found.module} {found.name}")
    assert wrong == []
