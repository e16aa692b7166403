"""Writes docs/api.md from the signatures and docstrings of the public names: `python docs/make_api.py`; `--check` only compares.

The sources are parsed, not imported, so that neither a build nor torch or onnx is needed. Public are the names in `__all__` of the modules
below; a class shows its fields, properties and methods, but for those that begin with "_" and those of INTERNAL.
"""

from __future__ import annotations

import ast
import copy
import functools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
WIDTH = 140

MODULES = {
    "ulp": "Matrices, settings, and reading models. [matrices.md](matrices.md) and [settings.md](settings.md) show these in use.",
    "ulp.nn": "Layers and compiled networks. [networks.md](networks.md) shows these in use.",
    "ulp.onnx": "Models from ONNX; `ulp.load` is `ulp.onnx.load`. [onnx.md](onnx.md) shows these in use.",
    "ulp.quantize": "Quantizing float models after training. [quantizing.md](quantizing.md) shows it in use.",
    "ulp.torch": "Low-bit layers in a torch model; needs torch. [torch.md](torch.md) shows these in use.",
}
# Public to other modules of ulp, but of no use to others.
INTERNAL = {"extra_repr", "document", "from_document", "check_constants", "check_results", "check_tensor", "observable"}

HEAD = """# API

Every public name, with its signature and its docstring. Written by `python docs/make_api.py`; change the docstrings, not this page.

Names that begin with an underscore, and modules that are not listed here, may change at any time.
"""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The source of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def source_of(module: str) -> Path:
    """The file of a module of ulp."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


class Found(NamedTuple):
    """A definition, and the module that holds it."""

    module: str
    node: Definition


def find(module: str, name: str) -> Found | None:
    """The definition behind `module.name`, through re-exports; None for submodules, plain values and what is not of ulp."""
    tree = parsed(source_of(module))
    defined = [
        node
        for node in tree.body
        if isinstance(node, Definition) and node.name == name and "overload" not in [ast.unparse(d) for d in node.decorator_list]
    ]
    if defined:
        return Found(module, defined[-1])
    for node in tree.body:  # name = Class(): what the class says of its one instance
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name and isinstance(node.value, ast.Call):
            return find(module, ast.unparse(node.value.func))
    is_package = source_of(module).name == "__init__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    parts = module.split(".")
                    base = parts[: len(parts) - node.level + is_package] if node.level else []
                    origin = ".".join([*base, *([node.module] if node.module else [])])
                    inside = origin.startswith("ulp") and source_of(origin).exists() and node.module is not None
                    return find(origin, alias.name) if inside else None
    return None


def private_bases(found: Found) -> Iterator[ast.ClassDef]:
    """The classes of ulp that a class derives from and that have no section of their own, the furthest first."""
    assert isinstance(found.node, ast.ClassDef)
    for base in found.node.bases:
        origin = find(found.module, base.id) if isinstance(base, ast.Name) else None
        if origin and isinstance(origin.node, ast.ClassDef) and not any(origin.node.name in public_names(m) for m in MODULES):
            yield from private_bases(origin)
            yield origin.node


def public_names(module: str) -> list[str]:
    """`__all__`, without the submodules that it may name."""
    for node in parsed(source_of(module)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if f"{module}.{name}" not in MODULES]
    raise SystemExit(f"{module} has no __all__")


def decorators(node: Definition) -> set[str]:
    """Names of a definition's decorators."""
    return {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}


def method_arguments(node: Function) -> ast.arguments:
    """The arguments of a method as its callers see them."""
    arguments = copy.deepcopy(node.args)
    first = arguments.posonlyargs or arguments.args
    if "staticmethod" not in decorators(node) and first:
        del first[0]
    return arguments


def signature(name: str, arguments: ast.arguments, returns: ast.expr | None) -> str:
    """`name(...) -> ...`, on several lines where one is too short."""
    result = f" -> {ast.unparse(returns)}" if returns else ""
    flat = f"{name}({ast.unparse(arguments)}){result}"
    if len(flat) <= 120:
        return flat
    parts: list[str] = []
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        parts.append(with_default(argument, default))
    if arguments.vararg or arguments.kwonlyargs:
        parts.append("*" + (ast.unparse(arguments.vararg) if arguments.vararg else ""))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parts.append(with_default(argument, default))
    if arguments.kwarg:
        parts.append("**" + ast.unparse(arguments.kwarg))
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def with_default(argument: ast.arg, default: ast.expr | None) -> str:
    """One argument as it is written in a signature."""
    text = ast.unparse(argument)
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if argument.annotation else f"{text}={ast.unparse(default)}"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, outside of `code`."""
    parts = text.split("`")
    for at in range(0, len(parts), 2):
        plain = parts[at].replace("<", "&lt;").replace("**", r"\*\*")
        parts[at] = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", plain)
    return "`".join(parts)


def prose(docstring: str, arguments: set[str], indent: int) -> Iterator[str]:
    """A docstring in Markdown: paragraphs, headings, and list items for what describes an argument.

    Lines are wrapped at WIDTH in the source, `indent` columns to the right. So a line that ends a sentence, and could have taken the first
    word of the next line, was ended on purpose: it ends its paragraph or item.
    """
    lines = docstring.splitlines()
    block: list[str] = []  # lines of one paragraph or item
    depth = 0  # of the items under the last heading
    for at, line in enumerate(lines):
        text, own = line.strip(), len(line) - len(line.lstrip())
        following = lines[at + 1] if at + 1 < len(lines) else ""
        if not text:
            depth = 0
            yield ""
            continue
        if not block and re.fullmatch(r"[A-Z][\w ]*:", text) and following:
            depth = len(following) - len(following.lstrip())
            yield from (f"**{text[:-1]}**", "")
            continue
        block.append(text)
        if following.strip():
            under = len(following) - len(following.lstrip())
            ended = text.endswith((".", ":")) and indent + len(line) + 1 + len(following.split(maxsplit=1)[0]) <= WIDTH
            if under > max(own, depth) or (not ended and not (under == depth and starts_item(following.strip(), arguments))):
                continue
        yield from rendered(" ".join(block), arguments)
        block = []


def rendered(text: str, arguments: set[str]) -> Iterator[str]:
    """One paragraph or list item, wrapped."""
    names = starts_item(text, arguments)
    if names:
        described = text[len(", ".join(names)) :]
        text = "- " + ", ".join(f"`{name}`" for name in names) + escape(described)
    else:
        text = escape(text)
    item = text.startswith("- ")
    yield textwrap.fill(text, WIDTH, subsequent_indent="  " if item else "", break_long_words=False, break_on_hyphens=False)
    if not item:
        yield ""


def starts_item(line: str, arguments: set[str]) -> list[str]:
    """The arguments, or the exceptions, that a line begins to describe."""
    match = re.match(r"([\w]+(?:, \w+)*): ", line)
    names = match[1].split(", ") if match else []
    return names if set(names) & arguments or all(name.endswith("Error") for name in names) else []


def described(node: Definition, arguments: set[str]) -> list[str]:
    """The docstring as lines of Markdown, or SystemExit where there is none."""
    text = ast.get_docstring(node)
    if text is None:
        raise SystemExit(f"{node.name} has no docstring")
    lines: list[str] = []
    for line in prose(text, arguments, node.col_offset + 4):
        # A list needs an empty line before it and after it.
        if lines and lines[-1] and line.startswith("- ") != lines[-1].startswith("- "):
            lines.append("")
        lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def names_of(arguments: ast.arguments) -> set[str]:
    """Names of all arguments."""
    extra = [a for a in (arguments.vararg, arguments.kwarg) if a]
    return {a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]}


def fenced(code: str) -> list[str]:
    """A signature as a block; not "python", which is the language of the examples that the tests run."""
    return ["```pyi", code, "```", ""]


def function(title: str, node: Function, level: str, *, method: bool) -> list[str]:
    """A function or method: heading, signature, docstring."""
    arguments = method_arguments(node) if method else node.args
    call = signature(node.name, arguments, node.returns)
    return [f"{level} `{title}`", "", *fenced(call), *described(node, names_of(arguments)), ""]


def fields_of(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """(name, type, description) of annotated public fields."""
    for at, statement in enumerate(node.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and not statement.target.id.startswith("_"):
            following = node.body[at + 1] if at + 1 < len(node.body) else None
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) and isinstance(following.value.value, str):
                text = " ".join(following.value.value.split())
            default = f" = {ast.unparse(statement.value)}" if statement.value and "field(" not in ast.unparse(statement.value) else ""
            yield statement.target.id, ast.unparse(statement.annotation) + default, text


def class_section(title: str, found: Found) -> list[str]:
    """A class: heading, how it is made, docstring, fields, properties and class methods (those of private bases, too), methods."""
    node = found.node
    assert isinstance(node, ast.ClassDef)
    classes = [*private_bases(found), node]
    inherited = {"property", "classmethod"}
    functions = [
        (m, c is node or (decorators(m) & inherited and ast.get_docstring(m))) for c in classes for m in c.body if isinstance(m, Function)
    ]
    members = {m.name: m for m, shown in functions if shown and m.name not in INTERNAL and "setter" not in decorators(m)}
    fields = [field for c in classes for field in fields_of(c)]
    lines = [f"### `{title}`", ""]
    made = members.get("__init__")
    arguments: set[str] = set()
    text = ast.get_docstring(node) or ""
    documented = {name for name, _, _ in fields} | set(re.findall(r"^(\w+(?:, \w+)*): ", text, re.MULTILINE))
    documented |= {name for group in documented for name in group.split(", ")}
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    if made is not None:
        called = method_arguments(made)
        arguments = names_of(called)
        # What makes instances of a class that users do not make themselves is no part of its interface.
        if not re.search(r"\b[Mm]ade by\b", text):
            lines += fenced(f"class {signature(node.name, called, None)}")
        else:
            lines += fenced(f"class {node.name}")
    else:
        lines += fenced(f"class {node.name}" + (f"({bases})" if bases else ""))
    lines += [*described(node, arguments | documented), ""]
    properties = [(m.name, ast.unparse(m.returns) if m.returns else "", " ".join((ast.get_docstring(m) or "").split()))
                  for m in members.values() if "property" in decorators(m) and not m.name.startswith("_")]  # fmt: skip
    rows = [*fields, *properties]
    if rows:
        lines += ["| attribute | type | |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | `{kind}` | {escape(text)} |".replace(" | None", r" \| None") for name, kind, text in rows]
        lines.append("")
    for m in members.values():
        if not m.name.startswith("_") and not decorators(m) & {"property", "overload"}:
            lines += function(f"{node.name}.{m.name}", m, "####", method=True)
    return lines


def instance_section(title: str, node: ast.ClassDef) -> list[str]:
    """What can be called, and has methods besides."""
    methods = [m for m in node.body if isinstance(m, Function) and (m.name == "__call__" or not m.name.startswith("_"))]
    lines: list[str] = []
    for method in methods:
        shown = copy.copy(method)
        called = title if method.name == "__call__" else f"{title}.{method.name}"
        shown.name = called.removeprefix("ulp.")
        lines += function(called, shown, "###" if method.name == "__call__" else "####", method=True)
    return lines


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for module, what in MODULES.items():
        lines += [f"## {module}", "", what, ""]
        for name in public_names(module):
            found = find(module, name)
            title = f"{module}.{name}"
            if found and isinstance(found.node, ast.ClassDef) and found.node.name != name:
                lines += instance_section(title, found.node)
            elif found and isinstance(found.node, ast.ClassDef):
                lines += class_section(title, found)
            elif found and isinstance(found.node, Function):
                lines += function(title, found.node, "###", method=False)
            elif name == "__version__":
                lines += [f"### `{title}`", "", "The version of `ulp`, a str.", ""]
            else:
                raise SystemExit(f"{title}: no definition found")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it; 1 where it differs."""
    made = page()
    if arguments == ["--check"]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == made
        if not current:
            sys.stderr.write("docs/api.md is not what the docstrings say: python docs/make_api.py\n")
        return 0 if current else 1
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
