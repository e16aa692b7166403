"""What `python -m bench quantize` keeps of a task that was ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.runs.kept import Kept


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    made: list[str] = []

    def file() -> tuple[bytes, dict[str, Any]]:
        made.append("file")
        return b"weights", {"shapes": {"x": [1, 3]}}

    def value() -> float:
        made.append("value")
        return 94.7

    def run(states: list[bytes], *, resume: bool) -> None:
        kept = Kept(tmp_path / "ocr", states, resume=resume)
        content, info = kept.file("auto, W4A4's ms", file)
        assert content == b"weights"
        assert info["shapes"] == {"x": [1, 3]}
        assert info["seconds"] >= 0
        assert kept.value("W8A8 score", value) == 94.7

    for states, resume, times in (([b"a"], True, 1), ([b"a"], True, 1), ([b"b"], True, 2), ([b"b"], False, 3), ([b"a"], True, 3)):
        run(states, resume=resume)
        assert made == ["file", "value"] * times
