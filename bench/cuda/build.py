"""Builds what a run needs from the checkout: `ulp` with its CUDA module for the device at hand, and the native parts of the peers.

Everything is made side by side in one folder, outside the checkout's own packages: <work>/site/ulp, <work>/libraries. A peer that cannot be
built leaves the reason beside the place of its library.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from bench import ROOT
from bench.peers import native

from .peers import CUBLASLT, CUTLASS, CUTLASS_VARIANTS

NATIVE = Path(__file__).parent / "native"
PROMPT = "$ "  # before a command in a log


@dataclass(frozen=True)
class Job:
    """Commands that make `target`, one after another; missing: why it cannot even be tried."""

    target: Path
    commands: tuple[tuple[str, ...], ...] = ()
    missing: str | None = None


def architecture(capability: str) -> str:
    """The target of csrc/cuda for a compute capability as "9.0": Hopper's own instructions need the target 90a."""
    number = capability.replace(".", "")
    return f"{number}a" if number == "90" else number


def device_capability() -> str:
    """ "9.0", as nvidia-smi says it. RuntimeError where there is no device."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"nvidia-smi names no device: {error}") from error
    return done.stdout.split()[0]


def toolkit(path: str | None = None) -> Path | None:
    """The CUDA toolkit's folder: $CUDA_HOME, else that of nvcc on the PATH, else /usr/local/cuda; None without any."""
    nvcc = shutil.which("nvcc", path=path)
    places = [os.environ.get("CUDA_HOME"), str(Path(nvcc).resolve().parents[1]) if nvcc else None, "/usr/local/cuda"]
    return next((Path(p) for p in places if p and (Path(p) / "include" / "cuda_runtime.h").exists()), None)


def tool(name: str) -> str | None:
    """A program on the PATH, else the toolkit's."""
    kit = toolkit()
    return shutil.which(name) or (shutil.which(name, path=str(kit / "bin")) if kit else None)


def _package_folders(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    return [Path(p) for p in spec.submodule_search_locations or ()] if spec else []


def find_cublaslt(folders: Sequence[Path] | None = None, cuda: Path | None = None) -> tuple[Path, Path] | None:
    """(folder of cublasLt.h, libcublasLt.so.*): of NVIDIA's wheels, which torch loads, else of the toolkit.

    The library must be torch's where torch brings one, as a process has one of its name; a header may come from the toolkit.
    """
    roots = [sub for folder in (_package_folders("nvidia") if folders is None else folders) for sub in (folder / "cu13", folder / "cublas")]
    kit = toolkit() if cuda is None else cuda
    if kit is not None:
        roots.append(kit)
    headers = [root / "include" for root in roots if (root / "include" / "cublasLt.h").exists()]
    libraries = [found for root in roots for lib in ("lib", "lib64") for found in sorted((root / lib).glob("libcublasLt.so.*"))]
    return (headers[0], libraries[0]) if headers and libraries else None


def find_cutlass(given: Path | None) -> list[Path]:
    """Include folders of CUTLASS: below `given`, else in PyPI's nvidia-cutlass; [] without."""
    places = [given] if given else [folder / "source" for folder in _package_folders("cutlass_library")]
    for place in places:
        for root in (place, place / "cutlass_library" / "source"):
            if (root / "include" / "cutlass" / "cutlass.h").exists():
                return [root / "include", root / "tools" / "util" / "include"]
    return []


def module_job(work: Path, capability: str, jobs: int) -> Job:
    """`ulp` with _core and _cuda, installed into <work>/site."""
    build, site = work / "module", work / "site"
    configure = (
        "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DULP_CUDA=ON", "-DULP_INPLACE=OFF",
        f"-DULP_CUDA_ARCHITECTURES={architecture(capability)}", f"-DPython_EXECUTABLE={sys.executable}",
        *([f"-DCMAKE_CUDA_COMPILER={nvcc}"] if (nvcc := tool("nvcc")) else []),
    )  # fmt: skip
    return Job(
        site / "ulp" / "_cuda",
        (configure, ("cmake", "--build", str(build), "-j", str(jobs)), ("cmake", "--install", str(build), "--prefix", str(site))),
    )


def cublaslt_job(libraries: Path, found: tuple[Path, Path] | None, cuda: Path | None) -> Job:
    """The adapter of cuBLASLt."""
    target = libraries / f"{CUBLASLT}.so"
    cxx = native.compiler()
    if found is None or cuda is None or cxx is None:
        return Job(target, missing="no cublasLt.h with its library, no CUDA headers or no C++ compiler")
    header, library = found
    command = (
        cxx, "-std=c++17", "-O3", "-shared", "-fPIC", f"-I{header}", f"-I{cuda / 'include'}", str(NATIVE / f"{CUBLASLT}.cpp"),
        str(library), f"-Wl,-rpath,{library.parent}", "-o", str(target),
    )  # fmt: skip
    return Job(target, (command,))


def cutlass_jobs(libraries: Path, includes: Sequence[Path], capability: str) -> list[Job]:
    """CUTLASS's tiles, one library per tile."""
    targets = [libraries / f"{CUTLASS}_{i}.so" for i in range(CUTLASS_VARIANTS)]
    if not includes:
        return [Job(target, missing="no headers: pip install nvidia-cutlass==4.2.0.0, or --cutlass") for target in targets]
    if capability != "9.0":
        return [Job(target, missing=f"these tiles are for sm_90, the device is sm_{capability.replace('.', '')}") for target in targets]
    flags = ("-std=c++17", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-w", "-gencode", "arch=compute_90a,code=sm_90a")
    folders = [f"-I{path}" for path in includes]
    command = (tool("nvcc") or "nvcc", *flags, *folders, "-shared", "-Xcompiler", "-fPIC", str(NATIVE / f"{CUTLASS}.cu"))
    return [Job(target, ((*command, f"-DULP_VARIANT={i}", "-o", str(target)),)) for i, target in enumerate(targets)]


def _start(command: Sequence[str], log: TextIO) -> subprocess.Popen[bytes]:
    log.write(f"{PROMPT}{' '.join(command)}\n")
    log.flush()
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _errors(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if not line.startswith(PROMPT)]
    found = [line for line in lines if "error" in line.lower()] or lines[-3:]
    return " | ".join(found[:3])


def run_jobs(jobs: Sequence[Job], logs: Path, seconds: float) -> dict[str, str | None]:
    """All side by side, each job's commands in turn; what is not done in time is stopped. {target's name: None, or why it failed}."""
    logs.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    outcome: dict[str, str | None] = {}
    running: dict[str, tuple[Job, Iterator[Sequence[str]], subprocess.Popen[bytes], TextIO]] = {}

    def advance(job: Job, commands: Iterator[Sequence[str]], log: TextIO) -> None:
        command = next(commands, None)
        if command is None:
            outcome[job.target.name] = None
            running.pop(job.target.name, None)
            log.close()
        else:
            running[job.target.name] = (job, commands, _start(command, log), log)

    def fail(job: Job, log: TextIO, reason: str | None = None) -> None:
        log.close()
        running.pop(job.target.name, None)
        outcome[job.target.name] = reason or _errors(logs / f"{job.target.name}.log")

    for job in jobs:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        if job.missing is not None:
            outcome[job.target.name] = job.missing
            continue
        log: TextIO = (logs / f"{job.target.name}.log").open("w", encoding="utf-8")
        try:
            advance(job, iter(job.commands), log)
        except OSError as error:
            fail(job, log, str(error))
    while running:
        for job, commands, process, log in list(running.values()):
            if process.poll() is None and time.monotonic() > deadline:
                process.kill()
                process.wait()
                fail(job, log, f"not done after {seconds:.0f} s")
            elif process.poll() == 0:
                advance(job, commands, log)
            elif process.poll() is not None:
                fail(job, log)
        time.sleep(0.1)
    for job in jobs:
        reason = outcome[job.target.name]
        if reason is not None:
            job.target.with_suffix(".log").write_text(reason + "\n", encoding="utf-8")
    return outcome


def add_python(site: Path) -> None:
    """The package's Python files beside its modules."""
    source = ROOT / "ulp"
    for path in source.rglob("*.py*"):
        if path.suffix in (".py", ".pyi"):
            target = site / "ulp" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def build(work: Path, capability: str, cutlass: Path | None, seconds: float) -> dict[str, str | None]:
    """Everything; {name: None, or why it failed}. The module's name is "_cuda"."""
    libraries, cuda = work / "libraries", toolkit()
    jobs = [
        module_job(work, capability, max(2, (os.cpu_count() or 2) - 2)),
        cublaslt_job(libraries, find_cublaslt(), cuda),
        *cutlass_jobs(libraries, find_cutlass(cutlass), capability),
    ]
    outcome = run_jobs(jobs, work / "logs", seconds)
    add_python(work / "site")
    return outcome
