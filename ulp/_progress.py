"""Progress bars on terminals, by tqdm where it is installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def progress_bar(items: Iterable[Any], shown: bool, title: str, unit: str) -> Iterable[Any]:
    """The items; a bar appears after a second if `shown`, tqdm is installed and the output is a terminal."""
    if not shown:
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    bar: Iterable[Any] = tqdm(items, desc=title, unit=unit, leave=False, disable=None, delay=1)
    return bar
