"""What the README shows must run, in the order in which it is read, and print what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
# A block of Python and, if it follows directly, the text that it prints.
BLOCKS = re.compile(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def test_python_blocks_run_and_print_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = list(BLOCKS.finditer(TEXT))
    assert len(blocks) == TEXT.count("```python") > 5
    for block in blocks:
        line = TEXT.count("\n", 0, block.start(1))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Padded with empty lines, so that a traceback shows the README's own line numbers.
            exec(compile("\n" * line + block[1], str(README), "exec"), names)
        if block[2] is not None:
            assert printed.getvalue() == block[2], f"README.md, line {line + 1}"


def test_set_up_is_two_commands() -> None:
    commands = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert commands == ['pip install ".[demo]" && python -m ulp.demo\npip install ".[test]" && pytest\n']


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
    assert links
    assert [link for link in links if not link.startswith("https://") and not (README.parent / link).exists()] == []


def test_one_place_for_the_speed_table() -> None:
    assert len(re.findall(r"^<!-- speed:begin -->$.*^<!-- speed:end -->$", TEXT, re.MULTILINE | re.DOTALL)) == 1
    assert TEXT.count("<!-- speed:") == 2
