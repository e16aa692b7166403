"""A bare x86-64 machine around the Bochs CPU core (PyPI bochscpu-python): memory, registers, one call at a time."""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PAGE = mmap.PAGESIZE
HALT, STACK, HEAP, HEAP_BYTES = 0x10000, 0x7F0000000000, 0x10000000, 8 << 20
READ_WRITE, CODE = 1, 0

# The extension asks for names of glibc 2.38; older ones have the same functions without the prefix.
_SHIM = """
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
unsigned long __isoc23_strtoul(const char* s, char** end, int base) { return strtoul(s, end, base); }
unsigned long long __isoc23_strtoull(const char* s, char** end, int base) { return strtoull(s, end, base); }
long __isoc23_strtol(const char* s, char** end, int base) { return strtol(s, end, base); }
long long __isoc23_strtoll(const char* s, char** end, int base) { return strtoll(s, end, base); }
int __isoc23_sscanf(const char* s, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int count = vsscanf(s, format, arguments);
  va_end(arguments);
  return count;
}
"""

_FACTORIES = {
    "sandy_bridge": "_Z38create_corei7_sandy_bridge_2600k_cpuidP8BX_CPU_C",
    "haswell": "_Z32create_corei7_haswell_4770_cpuidP8BX_CPU_C",
    "ryzen": "_Z18create_ryzen_cpuidP8BX_CPU_C",
    "cannon_lake": "_Z23create_corei3_cnl_cpuidP8BX_CPU_C",
    "skylake_x": "_Z29create_corei7_skylake_x_cpuidP8BX_CPU_C",
    "icelake_u": "_Z29create_corei7_icelake_u_cpuidP8BX_CPU_C",
    "arrow_lake": "_Z23create_arrow_lake_cpuidP8BX_CPU_C",
    "sapphire_rapids": "_Z28create_sapphire_rapids_cpuidP8BX_CPU_C",
}
_DEFAULT = "cannon_lake"


def missing() -> str:
    """Why there is no emulator here, or ""."""
    return "" if importlib.util.find_spec("bochscpu") else "bochscpu-python is not installed"


def loads(environment: Mapping[str, str]) -> bool:
    """Whether the emulator can be imported in this environment."""
    done = subprocess.run([sys.executable, "-c", "import bochscpu"], env=dict(environment), capture_output=True, check=False)
    return done.returncode == 0


def shimmed(folder: Path) -> dict[str, str]:
    """Environment in which the extension loads on older systems, too."""
    source, shim = folder / "shim.c", folder / "shim.so"
    source.write_text(_SHIM, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-std=c99", str(source), "-o", str(shim)], check=True)
    return {"LD_PRELOAD": str(shim)}


def _choose(model: str) -> None:
    """Bochs's Python module makes one fixed CPU; its factory is redirected to that of another model, which is compiled in."""
    import bochscpu

    if model == _DEFAULT:
        return
    library = ctypes.CDLL(str(next(Path(bochscpu.__file__).parent.glob("_bochscpu*.so"))))
    at = ctypes.cast(getattr(library, _FACTORIES[_DEFAULT]), ctypes.c_void_p).value
    to = ctypes.cast(getattr(library, _FACTORIES[model]), ctypes.c_void_p).value
    assert at is not None
    assert to is not None
    libc = ctypes.CDLL(None)
    start = ctypes.c_void_p(at & -PAGE)
    if libc.mprotect(start, 2 * PAGE, 7) != 0:
        raise OSError("mprotect")
    ctypes.memmove(at, b"\x48\xb8" + struct.pack("<Q", to) + b"\xff\xe0", 12)  # mov rax, to; jmp rax
    libc.mprotect(start, 2 * PAGE, 5)


class Machine:
    """An ELF image at its addresses, a heap and a stack."""

    def __init__(self, image: Path, model: str) -> None:
        _choose(model)
        import bochscpu
        import bochscpu.cpu
        import bochscpu.memory

        self._bochs = bochscpu
        self._session = bochscpu.Session()
        self._session.missing_page_handler = self._miss
        self._table = bochscpu.memory.PageMapLevel4Table()
        self._physical = 0x1000000
        self._pages: dict[int, int] = {}
        elf = image.read_bytes()
        segments = self._segments(elf)
        for address, _, size in segments:
            self._map(address, size, READ_WRITE)
        self._map(HALT, PAGE, CODE)
        self._map(STACK - 64 * PAGE, 65 * PAGE, READ_WRITE)
        self._map(HEAP, HEAP_BYTES, READ_WRITE)
        self._root = 0x100000
        for host, physical in self._table.commit(self._root):
            bochscpu.memory.page_insert(physical, host)
        for address, content, _ in segments:
            self.write(address, content)
        self.write(HALT, b"\xf4" * 16)
        names = subprocess.run(["nm", str(image)], check=True, capture_output=True, text=True).stdout.splitlines()
        self._symbols = {fields[2]: int(fields[0], 16) for line in names if len(fields := line.split()) == 3}

    @staticmethod
    def _miss(physical: int) -> None:
        raise SystemExit(f"no page at {physical:#x}")

    @staticmethod
    def _segments(elf: bytes) -> list[tuple[int, bytes, int]]:
        """Address, content and size of what is to be loaded (System V ABI, program headers)."""
        first, entry, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
        found = []
        for i in range(count):
            kind, _, offset, address, _, filled, size, _ = struct.unpack_from("<IIQQQQQQ", elf, first + i * entry)
            if kind == 1 and size:
                found.append((address, elf[offset : offset + filled], size))
        return found

    def _map(self, address: int, size: int, kind: int) -> None:
        for page in range(address & -PAGE, address + size, PAGE):
            if page in self._pages:
                continue
            host = self._bochs.memory.allocate_host_page()
            ctypes.memset(host, 0, PAGE)
            self._bochs.memory.page_insert(self._physical, host)
            self._table.insert(page, self._physical, kind)
            self._pages[page] = host
            self._physical += PAGE

    def heap(self) -> int:
        """Where the heap starts."""
        return HEAP

    def write(self, address: int, content: bytes) -> None:
        """Bytes to memory that is mapped."""
        done = 0
        while done < len(content):
            within = (address + done) % PAGE
            part = content[done : done + PAGE - within]
            ctypes.memmove(self._pages[address + done - within] + within, part, len(part))
            done += len(part)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory that is mapped."""
        out = b""
        while len(out) < size:
            within = (address + len(out)) % PAGE
            count = min(PAGE - within, size - len(out))
            out += ctypes.string_at(self._pages[address + len(out) - within] + within, count)
        return out

    def text(self, address: int) -> str:
        """A C string."""
        return self.read(address, 64).split(b"\0")[0].decode()

    def call(self, name: str, *arguments: int, xcr0: int = 0xE7) -> int:
        """The result of a function of at most six integers.

        xcr0: the state that the system saves. Raises RuntimeError where the CPU faults.
        """
        bochs = self._bochs
        state = bochs.State()
        bochs.cpu.set_long_mode(state)
        state.cr4 = state.cr4 | 1 << 9 | 1 << 10 | 1 << 18  # SSE, its exceptions, XSAVE
        state.cr3, state.xcr0 = self._root, xcr0
        stack = STACK - 0x1000 - 8
        self.write(stack, struct.pack("<Q", HALT))
        state.rsp, state.rip, state.rflags = stack, self._symbols[name], 2
        state.fpcw, state.mxcsr, state.mxcsr_mask = 0x37F, 0x1F80, 0xFFFF
        for register, value in zip(("rdi", "rsi", "rdx", "rcx", "r8", "r9"), arguments, strict=False):
            setattr(state, register, value & (1 << 64) - 1)

        def segment(selector: int, attributes: int) -> object:
            made = bochs.Segment()
            made.present, made.selector, made.base, made.limit, made.attr = True, selector, 0, 0xFFFFFFFF, attributes
            return made

        state.cs = segment(0x8, 0xA09B)
        state.ds = state.ss = state.es = state.fs = state.gs = segment(0x10, 0xC093)
        self._session.cpu.state = state
        faults: list[int] = []

        def fault(session: object, _cpu: object, vector: int, _error: int) -> None:
            faults.append(int(vector))
            session.stop()  # type: ignore[attr-defined]

        hook = bochs.Hook()
        hook.exception = fault
        hook.hlt = lambda session, _cpu: session.stop()
        self._session.run([hook])
        if faults:
            raise RuntimeError(f"{name}: exception {faults[0]} at {self._session.cpu.state.rip:#x}")
        result = int(self._session.cpu.state.rax)
        return result - (1 << 64) if result >> 63 else result
