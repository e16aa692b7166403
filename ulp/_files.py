"""Files that are read and replaced as a whole, whatever other processes and threads do to them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


def read_file(path: Path) -> bytes:
    """All bytes of a file. Not mapped: a process dies of SIGBUS where another one truncates a file that it has mapped.

    ValueError for a pipe, a device or a directory, which may never end or never begin; OSError.
    """
    # Looked at before, since to open a device may do something, and after, since another file may have come in its place.
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        return file.read()


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a new file beside `path`, then put it in path's place: a reader sees the old file or the new one, whole.

    The new file has a random name and must not exist (O_EXCL), so that neither another writer nor a link laid out in advance is written to.
    Where `path` is a link, the link is replaced. OSError; the new file is then gone.
    """
    beside = path.with_name(f".ulp-{os.urandom(8).hex()}")
    # Its permissions are those of any new file: tempfile would leave it readable by its owner only.
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except FileNotFoundError:  # of the new file's name, which says nothing to a user
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Wait for all threads and processes that hold the directory locked, and hold it.

    Nothing is held where the system or the file system has no such locks. OSError where the directory cannot be opened.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
