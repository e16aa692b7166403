"""README and docs: what they show must run and print what it says, and what they name must exist.

Blocks of Python run in the order in which they are read, one namespace per page, in an empty folder. A block of text that follows directly
is what the block prints. `<!-- needs torch -->` in front of a block names packages without which it is skipped, or `gpu`: then it runs on
the GPU's emulator and on its double, with `network` on the emulator alone, where onnx is. What a page presupposes (a model, arrays) is in
PRESUPPOSED.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import itertools
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from defaults import set_defaults

import ulp
from ulp import nn

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# Kept by others, but held to the same rules where they name commands and files.
BESIDE = [path for path in (ROOT / "bench" / "README.md", *sorted((ROOT / "tools").rglob("README.md"))) if path.exists()]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# "python" is run, "sh" looked at command by command; "text" is output or a drawing, "pyi" a signature.
LANGUAGES = {"python", "sh", "text", "pyi"}
FENCE = re.compile(
    r"(?:^ *<!-- needs (?P<needs>[\w, ]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$"
    r"(?:\n\n *```text\n(?P<prints>.*?)^ *```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    needs: tuple[str, ...]
    prints: str | None

    def run(self, names: dict[str, Any]) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Padded with empty lines, so that a traceback shows the page's own line numbers.
            exec(compile("\n" * self.line + self.code, str(self.page), "exec"), names)
        if self.prints is not None:
            assert printed.getvalue() == self.prints, f"{self.page.name}, line {self.line + 1}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        needs = tuple((match["needs"] or "").replace(",", " ").split())
        prints = match["prints"] if match["language"] == "python" else None
        found.append(Block(page, text.count("\n", 0, match.start("code")), match["language"], code, needs, prints))
        if match["language"] != "python" and match["prints"] is not None:  # another block, not what this one prints
            found.append(Block(page, text.count("\n", 0, match.start("prints")), "text", match["prints"], (), None))
    return found


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def needs_of(page: Path) -> set[str]:
    return {package for block in python_blocks(page) for package in block.needs}


def with_python(*, needs: bool) -> list[Path]:
    return [page for page in PAGES if (needs_of(page) if needs else any(not block.needs for block in python_blocks(page)))]


def name_of(page: object) -> str | None:
    return page.name if isinstance(page, Path) else None


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    fences = len(re.findall(r"^ *```", text, re.MULTILINE))
    assert fences == 2 * (len(found) + sum(block.prints is not None for block in found)), "a block that is not closed, or not found"
    assert {block.language for block in found} <= LANGUAGES
    assert text.count("<!-- needs ") == sum(bool(block.needs) for block in found), "needs no block that follows directly"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", with_python(needs=False), ids=name_of)
def test_blocks_run_and_print_what_is_shown(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {}
    for block in python_blocks(page):
        if not block.needs:
            block.run(names)


# ------------------------------------------------------------------------------------------------------ what needs a package, or a GPU


def quantized_model() -> tuple[Any, np.ndarray[Any, Any]]:
    """An ONNX model as Brevitas exports it in QONNX, with random weights, and images for it."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.02), "z": np.float32(0), "b8": np.float32(8), "b3": np.float32(3), "ws": np.float32(0.05),
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) * np.float32(0.1),
        "v": rng.standard_normal((10, 8)).astype(np.float32) * np.float32(0.1),
    }  # fmt: skip

    def quant(x: str, scale: str, bits: str, y: str, *, signed: int) -> Any:
        kind: dict[str, Any] = {"signed": signed, "narrow": 0, "rounding_mode": "ROUND"}
        return helper.make_node("Quant", [x, scale, "z", bits], [y], domain="qonnx.custom_op.general", name=f"quant_{y}", **kind)

    nodes = [
        quant("images", "s", "b8", "x0", signed=1),
        quant("w", "ws", "b3", "w0", signed=1),
        helper.make_node("Conv", ["x0", "w0"], ["x1"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x1"], ["x2"], name="relu"),
        quant("x2", "s", "b3", "x3", signed=0),
        helper.make_node("GlobalAveragePool", ["x3"], ["x4"], name="pool"),
        helper.make_node("Flatten", ["x4"], ["x5"], name="flatten"),
        quant("x5", "s", "b8", "x6", signed=0),
        quant("v", "ws", "b3", "v0", signed=1),
        helper.make_node("Gemm", ["x6", "v0"], ["logits"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("qonnx.custom_op.general", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), rng.standard_normal((4, 3, 16, 16)).astype(np.float32)


def a_model_in_a_file() -> dict[str, Any]:
    model, images = quantized_model()
    Path("model.onnx").write_bytes(model.SerializeToString())
    return {"images": images}


def a_float_model_in_a_file() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:  # the page's blocks are skipped
        return {}
    weights = {"conv1.weight": (8, 3, 3, 3), "layer1.0.weight": (8, 8, 3, 3), "head.weight": (10, 8)}
    nodes = [
        helper.make_node("Conv", ["images", "conv1.weight"], ["x1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "layer1.0.weight"], ["x3"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x3"], ["x4"]),
        helper.make_node("GlobalAveragePool", ["x4"], ["x5"]),
        helper.make_node("Flatten", ["x5"], ["x6"]),
        helper.make_node("Gemm", ["x6", "head.weight"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "float",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Path("float.onnx").write_bytes(model.SerializeToString())
    return {"images": rng.standard_normal((32, 3, 16, 16)).astype(np.float32)}


def arrays_on_a_gpu() -> dict[str, Any]:
    from cuda_arrays import TorchTensor

    rng = np.random.default_rng(0)
    weights = rng.integers(-8, 8, (256, 64)).astype(np.int8)
    x = rng.integers(0, 16, (5, 256)).astype(np.uint8)
    scale, bias = np.full(64, 0.01, np.float32), np.zeros(64, np.int32)
    arrays = {"weights": weights, "x": TorchTensor(x), "scale": scale, "bias": bias, "a": x, "b": weights}
    if importlib.util.find_spec("onnx") is None:
        return arrays
    images = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bits=4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5, bits=4)).calibrate([images])
    ulp.export(network, "model.onnx", images, format="qonnx")
    return {**arrays, "compiled": nn.compile(network, images), "images": images, "batch": TorchTensor(images)}


PRESUPPOSED: dict[str, Callable[[], dict[str, Any]]] = {
    "onnx.md": a_model_in_a_file,
    "choosing-bits.md": a_float_model_in_a_file,
    "quantizing.md": a_float_model_in_a_file,
    "gpu.md": arrays_on_a_gpu,
}


@contextlib.contextmanager
def emulated_gpu(build: str) -> Iterator[None]:
    """One of the builds of cuda_modules in the place of a GPU, and a torch whose tensors are there."""
    import cuda_modules
    from cuda_arrays import fake_torch

    from ulp._gpu import native

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", fake_torch())
        native.replace_module(cuda_modules.load(build))
        try:
            yield
        finally:
            native.replace_module(None)


def variants() -> list[Any]:
    import cuda_modules

    return [
        pytest.param(page, build, id=f"{page.name}{build and '-' + build}")
        for page in with_python(needs=True)
        for build in (cuda_modules.builds() if "gpu" in needs_of(page) else [""])
    ]


@pytest.mark.parametrize(("page", "build"), variants())
def test_blocks_that_need_more(page: Path, build: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in sorted(needs_of(page) - {"gpu", "network"}):
        pytest.importorskip(package)
    if "scipy" in needs_of(page):  # a search: rounding by second moments is what takes time there
        pairs = tuple(ulp.quantize.Bits(bits, bits) for bits in (8, 4, 3))
        set_defaults(monkeypatch, ulp.quantize.quantize, rounding="nearest", bias_correction=False)
        set_defaults(monkeypatch, ulp.quantize.auto, pairs=pairs)
    if "torch._dynamo" in sys.modules:  # what other tests compiled counts against its limit of graphs: a reader's process is a fresh one
        sys.modules["torch._dynamo"].reset()
    with emulated_gpu(build) if build else contextlib.nullcontext():
        names = PRESUPPOSED[page.name]() if page.name in PRESUPPOSED else {}
        for block in python_blocks(page):
            if "network" not in block.needs or (build == "emulated" and "compiled" in names):
                block.run(names)


def test_commands_for_models_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    from ulp.__main__ import main

    a_model_in_a_file()
    ran = [words[3:] for _, words in commands(ROOT / "docs" / "onnx.md") if words[:3] == ["python", "-m", "ulp"]]
    assert {words[0] for words in ran} == {"inspect", "run", "bench"}
    for words in ran:
        rounds = ["--rounds", "2", "--batches", "1"] if words[0] == "bench" else []
        assert main([*words, *rounds]) == 0, words
        assert capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------- commands, links, names


def commands(page: Path) -> list[tuple[int, list[str]]]:
    """(line, words) of each command of the blocks of shell, and of the modules that the text says to run."""
    text = page.read_text(encoding="utf-8")
    found = []
    for inline in re.finditer(r"(?<!`)`(python -m [^`]+)`", FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)):
        if "..." not in inline[1]:
            found.append((text.count("\n", 0, inline.start()) + 1, shlex.split(inline[1].partition(" | ")[0])))
    for block in blocks(page):
        if block.language == "sh":
            for at, line in enumerate(block.code.splitlines()):
                for part in re.split(r" && | \| ", re.sub(r"(^| )#.*", "", line)):
                    words = shlex.split(re.sub(r"^\w+=(\$\([^)]*\)|\S*) ", "", part.strip()))
                    if words:
                        found.append((block.line + at + 1, words))
    return found


def complain_about(words: list[str]) -> str:
    """What is wrong with a command of ours; "" where nothing is known to be."""
    program, *rest = words
    if program == "python" and rest[:1] == ["-m"]:
        return "" if rest[1] in {"venv", "pip"} else module_complaint(rest[1], rest[2:])
    if program == "python" and rest[:1] == ["-c"]:
        compile(rest[1], "-c", "exec")
        return ""
    if program == "pip":
        return pip_complaint(rest)
    if program == "cmake":
        presets = json.loads((ROOT / "CMakePresets.json").read_text(encoding="utf-8"))["configurePresets"]
        return "" if set(after("--preset", rest)) <= {preset["name"] for preset in presets} else "no such preset"
    if program in {"python", "pytest"} or "/" in program:
        return path_complaint(words)
    return "" if program in {"apt-get", "ruff", "mypy", "."} else "an unknown program: say in this test how to check it"


def path_complaint(words: list[str]) -> str:
    """Scripts, files and folders exist; a script that has commands knows the one that is asked for."""
    program, *rest = words
    files = [word for word in rest if re.fullmatch(r"[\w./*-]+\.(py|md|sh)|tests|bench", word) and "$" not in word]
    missing = [name for name in files if not list(ROOT.glob(name))]
    if missing:
        return f"no {missing}"
    if "/" not in program:
        return ""
    script = ROOT / program
    if not script.is_file():
        return f"no {program}"
    text = script.read_text(encoding="utf-8")
    if program == ".ci/run":
        return "".join(f"no step {step}" for step in rest if f"step_{step}()" not in text)
    return "" if not rest or re.search(rf"^#.*\b{rest[0]}\b|^{rest[0]}\(\)", text, re.MULTILINE) else f"{program} knows no {rest[0]}"


def after(flag: str, words: list[str]) -> list[str]:
    return [word for before, word in itertools.pairwise(words) if before == flag]


def pip_complaint(rest: list[str]) -> str:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "CMakeLists.txt", *sorted((ROOT / "cmake").glob("*"))))
    for word in rest:
        for extra in word[2:-1].split(",") if word.startswith(".[") else []:
            if not re.search(rf"^{extra} = \[", project, re.MULTILINE):
                return f"no extra {extra}"
        define = re.search(r"cmake\.define\.(\w+)=", word)
        if define and not re.search(rf"^ *(option|set)\({define[1]} ", settings, re.MULTILINE):
            return f"no option {define[1]}"
    return "".join(f"no {name}" for name in after("-r", rest) if not (ROOT / name).exists())


def module_complaint(module: str, arguments: list[str]) -> str:
    """The module has a main that knows the subcommand, its choices and its options: asked for help, it prints them."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main = importlib.import_module(f"{module}.__main__" if module in {"ulp", "bench"} else module).main
            main([*arguments, "--help"])
        except SystemExit as stop:
            if stop.code != 0:
                return printed.getvalue()
        except ModuleNotFoundError as error:
            # Without a package of others the command cannot be looked at.
            return str(error) if (error.name or "").split(".")[0] in {"ulp", "bench", "tools"} else ""
    unknown = [word for word in arguments if word.startswith("--") and word not in printed.getvalue()]
    return f"no option {unknown}" if unknown else ""


@pytest.fixture(scope="module", autouse=True)
def _bench_can_be_imported() -> None:
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # at the end: an installed ulp comes before the source tree's


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    complaints = [f"line {line}: {shlex.join(words)}: {said}" for line, words in commands(page) if (said := complain_about(words))]
    assert complaints == []


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


# Paths that stand on the user's machine, or that a build makes.
ELSEWHERE = ("ulp/tune.json",)
OURS = re.compile(r"`((?:ulp|csrc|bench|docs|tests|tools|cmake|\.ci|\.github)/[\w./*-]*)`")


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    named = [name for name in OURS.findall(prose(page)) if name not in ELSEWHERE]
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/") or name))] == []


def test_the_drawn_layout_is_the_one_there_is() -> None:
    (layout,) = (block.code for block in blocks(ROOT / "docs" / "design.md") if "csrc/pack/ " in block.code)
    drawn = [line.split()[0] for line in layout.splitlines()]
    assert [path for path in drawn if not (ROOT / path).is_dir()] == []
    folders = {f"{path.relative_to(ROOT)}/" for top in ("csrc", "ulp") for path in (ROOT / top).iterdir() if (path / ".").is_dir()}
    inside = {"ulp/__pycache__/", "ulp/data/"}
    assert {f for f in folders if any((ROOT / f).glob("*.[ch]*")) or any((ROOT / f).glob("*.py"))} - inside <= set(drawn)


# ---------------------------------------------------------------------------------------------------------------------- the pages' promises


def test_readme_is_short() -> None:
    assert README.count("\n") <= 150


def test_set_up_is_two_commands() -> None:
    found = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found == ['pip install ".[demo]" && python -m ulp.demo\npip install ".[test]" && pytest\n']
    assert "## Set-up" in README


def test_readme_has_an_example_of_eight_lines() -> None:
    (example,) = python_blocks(ROOT / "README.md")
    assert len(example.code.replace("\n\n", "\n").splitlines()) == 8
    assert example.prints


@pytest.mark.parametrize(
    ("page", "marker"),
    [("README.md", "speed"), ("docs/performance.md", "speed"), ("docs/performance.md", "modelled"), ("docs/choosing-bits.md", "stages")],
)
def test_one_place_for_generated_tables(page: str, marker: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(re.findall(rf"^<!-- {marker}:begin -->$.*^<!-- {marker}:end -->$", text, re.MULTILINE | re.DOTALL)) == 1
    assert text.count(f"<!-- {marker}:") == 2


def test_readme_shows_six_rows_of_speed_per_machine() -> None:
    section = README.partition("<!-- speed:begin -->")[2].partition("<!-- speed:end -->")[0]
    machines = section.count("**512x512x512")
    assert machines >= 1
    assert re.findall(r"^\| (W\dA\d) \|", section, re.MULTILINE) == ["W1A1", "W2A2", "W3A3", "W4A4", "W6A6", "W8A8"] * machines


def test_figures_in_the_text_are_those_of_the_tables() -> None:
    performance = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for bits in ("W2A2", "W3A3"):
        table = performance.partition(f"**Networks at {bits}, one core**")[2].partition("\n\n\n")[0]
        int8 = re.search(r"^\| geometric mean \|.*\| ([\d.]+x) \| [\d.]+x \|$", table, re.MULTILINE)
        assert int8
        assert f"{int8[1]} at {bits}" in README
    w8a8 = re.findall(r"^\| W8A8 \|.*$", README.partition("<!-- speed:begin -->")[2], re.MULTILINE)[-1]  # without VNNI
    said = re.search(r"saturate \(([\d.]+x) above\)", README)
    assert said
    assert said[1] in w8a8


def test_rates_by_bits_are_those_measured() -> None:
    path = ROOT / "bench" / "results" / "zen3" / "pairs.json"  # without VNNI, where widths differ
    if not path.exists():
        pytest.skip("no bench/results here")
    (group,) = json.loads(path.read_text(encoding="utf-8"))["groups"]
    rows: dict[int, list[str]] = {}
    for cell in group["cells"]:
        if cell["kind"] == "ulp":
            a_bits, b_bits = cell["bits"]
            rate = cell["macs"] / np.median(np.asarray(cell["ns"]))
            rows.setdefault(b_bits, [""] * 8)[a_bits - 1] = f"{rate:.0f} {cell['info']['kernel'].split('_')[0]}"
    page = (ROOT / "docs" / "choosing-bits.md").read_text(encoding="utf-8")
    for bits, row in sorted(rows.items()):
        assert f"| W{bits} | {' | '.join(row)} |\n" in page


def test_gpu_page_says_first_that_nothing_ran_there() -> None:
    gpu = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").split("\n\n")
    assert gpu[1].startswith("**Never run on a GPU.**")


def make_api() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_api_page_is_what_the_docstrings_say() -> None:
    assert make_api().main(["--check"]) == 0


def test_api_page_names_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    modules: list[Any] = [ulp, ulp.nn, ulp.onnx, ulp.quantize]
    if importlib.util.find_spec("torch") is not None:
        modules.append(importlib.import_module("ulp.torch"))
    for module in modules:
        for name in module.__all__:
            section = "##" if f"ulp.{name}" in ("ulp.nn", "ulp.onnx", "ulp.quantize") else "###"
            title = f"ulp.{name}" if section == "##" else f"`{module.__name__}.{name}`"
            assert f"\n{section} {title}\n" in page, f"{module.__name__}.{name}"


def test_settings_page_names_every_variable() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ulp").rglob("*.py"))
    read = set(re.findall(r"\"(ULP_[A-Z_]+)\"", source))
    assert read >= {"ULP_NUM_THREADS", "ULP_MAX_CPU_ISA", "ULP_TUNE_CACHE", "ULP_VERBOSE", "ULP_CUDA_CHECK"}
    assert [name for name in sorted(read) if f"| `{name}` |" not in page] == []


def test_the_gate_runs_every_test_that_needs_an_optional_package() -> None:
    gate = ROOT / ".ci" / "run"
    if not gate.exists():
        pytest.skip("a source distribution")
    found = re.search(r"^optional_tests=\(\n(.*?)^\)$", gate.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    run = {path for pattern in found[1].split() for path in ROOT.glob(pattern)}
    needs = re.compile(r"importorskip\(\"(torch|onnx|scipy|brevitas|qonnx|ml_dtypes)")
    asking = {path for path in (ROOT / "tests").glob("test_*.py") if needs.search(path.read_text(encoding="utf-8"))}
    assert {path.name for path in asking - run} <= {"test_cuda_bench.py", "test_cuda_gpu.py"}  # which need a GPU, too
