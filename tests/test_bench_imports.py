"""Imports among tools, bench and tests point one way, and inside bench from reports down to subjects."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What each part may import of the others; ulp is open to all.
ALLOWED = {"tools": set[str](), "bench": {"tools"}}
# Inside bench from the lowest to the highest. bench.cuda, a benchmark of its own with a report, is outside.
ORDER = ("subjects", "peers", "runs", "reports")


def imports(path: Path) -> Iterator[str]:
    """The modules that a file names in its imports, absolute, wherever in the file they stand."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_relative_imports_are_resolved() -> None:
    assert "bench.subjects.operands.U8" not in set(imports(ROOT / "bench/subjects/installed.py"))
    assert {"bench.subjects.operands", "bench.subjects.interface.compare"} <= set(imports(ROOT / "bench/subjects/installed.py"))
    assert "tools.arm.emulation.Execution" in set(imports(ROOT / "tools/arm/cycles.py"))


@pytest.mark.parametrize("part", ALLOWED)
def test_parts_import_only_what_they_may(part: str) -> None:
    own_of_tests = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"tests"}
    wrong = []
    for path in sorted((ROOT / part).rglob("*.py")):
        for name in imports(path):
            first = name.partition(".")[0]
            foreign = first in {*ALLOWED, *own_of_tests} - {part} - ALLOWED[part]
            private = first in ALLOWED[part] and any(word.startswith("_") for word in name.split("."))
            if foreign or private:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_bench_imports_point_down() -> None:
    wrong = []
    for number, layer in enumerate(ORDER):
        for path in sorted((ROOT / "bench" / layer).rglob("*.py")):
            above = tuple(f"bench.{higher}." for higher in ORDER[number + 1 :])
            wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in imports(path) if name.startswith(above)]
    assert wrong == []


def test_no_module_is_long() -> None:
    files = [path for part in ALLOWED for path in (ROOT / part).rglob("*.py") if (ROOT / "bench/cuda") not in path.parents]
    assert [str(path.relative_to(ROOT)) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 450] == []
