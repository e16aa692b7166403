"""Progress bars on terminals, by tqdm where it is installed."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from functools import cache
from typing import Any


def progress_bar(items: Iterable[Any], shown: bool, title: str, unit: str) -> Iterable[Any]:
    """The items; a bar appears after a second if `shown`, tqdm is installed and the output is a terminal."""
    if not shown or not hasattr(sys.stderr, "isatty") or not sys.stderr.isatty():
        return items
    try:
        bar = _bar()
    except ImportError:
        return items
    shown_items: Iterable[Any] = bar(items, desc=title, unit=unit, leave=False, disable=None, delay=1)
    return shown_items


@cache
def _bar() -> Any:
    """tqdm with a lock of its own.

    tqdm's default is shared between processes: a child that is forked while another thread has it would wait forever, and its parent with
    it. ImportError where tqdm is not installed.
    """
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg,misc,unused-ignore]  # tqdm may not be installed
        """Bars of ulp."""

    def renew() -> None:
        Bar.set_lock(threading.RLock())

    renew()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return Bar
