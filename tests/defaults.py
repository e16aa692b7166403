"""Other defaults of a function while a test runs, where what the test calls does not take them."""

from __future__ import annotations

from typing import Any

import pytest


def set_defaults(monkeypatch: pytest.MonkeyPatch, function: Any, **values: Any) -> None:
    """Of keyword-only arguments; KeyError for one that the function has not."""
    for name, value in values.items():
        if name not in function.__kwdefaults__:
            raise KeyError(name)
        monkeypatch.setitem(function.__kwdefaults__, name, value)
