"""The machine code of the CUDA kernels: the tensor cores' instructions where they should be, none where they are emulated, and no spills.

Needs the built module ulp._cuda and cuobjdump (of the CUDA toolkit, or of the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# Bytes of stack per thread. A few instances of gemm_mma spill values that they need only before or after their loop; of conv it is also
# what they keep while they call for rare loads.
MAX_STACK = {"gemm_sm90": 0, "gemm_mma": 40, "conv": 128, "conv_sm90": 128}
LAST_BEFORE_HOPPER = 89
FIRST_WITH_B1, LAST_WITH_B1 = 80, 90

Kernel = tuple[str, str, str]
"""Architecture ("sm_90a"), name, mangled template arguments."""


@dataclass
class Code:
    """The disassembly of one kernel."""

    instructions: Counter[str] = field(default_factory=Counter)

    def of(self, operation: str) -> set[str]:
        """The instructions of an operation with their modifiers."""
        return {name for name in self.instructions if name.split(".")[0] == operation}


def find_module() -> Path | None:
    spec = importlib.util.find_spec("ulp._cuda")
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def find_cuobjdump() -> str | None:
    packaged = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin"))
    return shutil.which("cuobjdump", path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, packaged)]))


MODULE, CUOBJDUMP = find_module(), find_cuobjdump()
pytestmark = [
    pytest.mark.skipif(MODULE is None, reason="ulp._cuda is not built"),
    pytest.mark.skipif(CUOBJDUMP is None, reason="cuobjdump is neither on the PATH nor installed by pip"),
]


def cuobjdump(*arguments: str) -> Iterator[str]:
    assert CUOBJDUMP is not None
    assert MODULE is not None
    directory = str(Path(CUOBJDUMP).parent)  # nvdisasm is there, too
    environment = {**os.environ, "PATH": directory + os.pathsep + os.environ.get("PATH", "")}
    with subprocess.Popen([CUOBJDUMP, *arguments, str(MODULE)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield from process.stdout
    assert process.returncode == 0


def kernel_name(mangled: str) -> tuple[str, str]:
    """("gemm_sm90", "ILi4ELi64ELb0EE") from the name of an instance of a kernel of ours; gemm_mma over windows is "conv"."""
    match = re.match(r"_ZN3ulp4cuda(\d+)", mangled)
    assert match is not None, mangled
    start = match.end()
    length = int(match[1])
    name, arguments = mangled[start : start + length], mangled[start + length :].partition("Ev")[0]
    over_windows = name == "gemm_mma" and "ConvArguments" in arguments
    return ("conv", arguments.replace("NS0_13ConvArgumentsE", "")) if over_windows else (name, arguments)


@pytest.fixture(scope="module")
def resources() -> dict[Kernel, dict[str, int]]:
    """REG, STACK, SHARED and the like of every kernel for every architecture."""
    found: dict[Kernel, dict[str, int]] = {}
    arch, function = "", ""
    for line in cuobjdump("--dump-resource-usage"):
        if match := re.match(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\w+):", line):
            function = match[1]
        elif function and "REG:" in line:
            kernel = (arch, *kernel_name(function))
            found[kernel] = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", line)}
            function = ""
    return found


def disassemble(arch: str) -> dict[Kernel, Code]:
    found: dict[Kernel, Code] = {}
    code = Code()
    for line in cuobjdump("-sass", "-arch", arch):
        if match := re.search(r"Function : (\w+)", line):
            kernel = (arch, *kernel_name(match[1]))
            code = found[kernel] = Code()
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line):
            code.instructions[match[1]] += 1
    return found


@pytest.fixture(scope="module")
def architectures(resources: dict[Kernel, dict[str, int]]) -> list[str]:
    return sorted({arch for arch, _, _ in resources}, key=number)


def number(arch: str) -> int:
    return int(re.sub(r"\D", "", arch))


def unit_of(arguments: str) -> str:
    """The Unit of tiles.h of an instance of a kernel."""
    match = re.search(r"UnitE(\d)E", arguments)
    assert match is not None, arguments
    return ("s8", "u8", "s4", "b1")[int(match[1])]


def test_every_tile_is_there_for_every_architecture(resources: dict[Kernel, dict[str, int]], architectures: list[str]) -> None:
    counts = Counter((arch, name) for arch, name, _ in resources)
    for arch in architectures:
        assert counts[arch, "gemm_mma"] in (0, 3 * (8 + 4 + 4)), arch
        assert counts[arch, "conv"] in (0, 2 * (2 + 1 + 2)), arch
        assert counts[arch, "conv_sm90"] == (2 * 2 + 2 if arch == "sm_90a" else 0), arch
        assert counts[arch, "gemm_sm90"] == (5 * 8 * 2 + 3 * 4 if arch == "sm_90a" else 0), arch
    assert sum(counts[arch, "gemm_mma"] for arch in architectures) > 0


def test_no_spills(resources: dict[Kernel, dict[str, int]]) -> None:
    too_much = {
        (*kernel, usage["STACK"])
        for kernel, usage in resources.items()
        if kernel[1] in MAX_STACK and usage["STACK"] + usage["LOCAL"] > MAX_STACK[kernel[1]]
    }
    assert not too_much


def test_registers_are_those_that_a_block_can_have(resources: dict[Kernel, dict[str, int]]) -> None:
    for (arch, name, arguments), usage in resources.items():
        if name in ("gemm_sm90", "conv_sm90"):
            assert usage["REG"] == 168, (
                arch,
                arguments,
            )  # 65536 / 384 threads, rounded down to a multiple of 8; setmaxnreg redistributes them
        elif name in ("gemm_mma", "conv"):
            assert usage["REG"] <= 255, (arch, arguments)


# One architecture per kind, as the disassembler is slow. Of all that are built: Turing, Ada, Hopper, and the newest.
KINDS: dict[str, Callable[[list[str]], list[str]]] = {
    "oldest": lambda found: found[:1],
    "last before Hopper": lambda found: [arch for arch in found if number(arch) <= LAST_BEFORE_HOPPER][-1:],
    "Hopper": lambda found: [arch for arch in found if arch == "sm_90a"],
    "newest": lambda found: found[-1:],
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensor_cores(architectures: list[str], kind: str) -> None:
    earlier = list(KINDS)[: list(KINDS).index(kind)]
    chosen = KINDS[kind](architectures)
    if not chosen or chosen in [KINDS[other](architectures) for other in earlier]:
        pytest.skip(f"no further architecture in {architectures}")
    arch = chosen[0]
    for (_, name, arguments), code in disassemble(arch).items():
        if name in ("gemm_sm90", "conv_sm90"):
            own, other = ("BGMMA", "IGMMA") if unit_of(arguments) == "b1" else ("IGMMA", "BGMMA")
            assert code.of(own), (arch, arguments)
            assert not code.of(other), (arch, arguments)
            assert not code.of("IMMA"), (arch, arguments)
        elif name in ("gemm_mma", "conv") and unit_of(arguments) == "b1":
            assert not code.of("IMMA"), (arch, arguments)
            if FIRST_WITH_B1 <= number(arch) <= LAST_WITH_B1:
                assert {instruction.split(".")[2:] == ["AND", "POPC"] for instruction in code.of("BMMA")} == {True}, (arch, arguments)
            else:
                assert code.of("BPT"), (arch, arguments)
        elif name in ("gemm_mma", "conv"):
            types = {re.sub(r"^IMMA\.\d+\.", "", instruction).partition(".SAT")[0] for instruction in code.of("IMMA")}
            if unit_of(arguments) == "s8":
                assert types == {"S8.S8"}, (arch, arguments, types)
            elif number(arch) <= LAST_BEFORE_HOPPER:
                assert types == {"S4.S4"}, (arch, arguments, types)
            else:
                # Never selected there, and must not be emulated: it traps.
                assert not types, (arch, arguments, types)
                assert code.of("BPT"), (arch, arguments)
