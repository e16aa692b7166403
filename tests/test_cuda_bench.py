"""The benchmarks for GPUs, as far as they go without one: figures, tables, commands, checks on stand-ins, and a dry run on the CPU."""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib
import importlib.util
import json
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_modules
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))  # at the end: an installed ulp comes before the source tree's

from bench.cuda import build, check, conv, conv_peers, device, measure, names, network, operands, report, run, work
from bench.cuda.operands import Epilogue, Problem
from bench.cuda.work import Gpu, Work
from bench.runs import machine, results  # the path comes first

H100 = Gpu("NVIDIA H100 80GB HBM3", 90, 132, 50 << 20, 80 << 30, 1830.0)


# ----------------------------------------------------------------------------------------------------------------------------- figures


def test_ceilings_are_those_of_the_data_sheet() -> None:
    square = Work(8192, 8192, 8192, 4, 4)
    assert work.tensor_ns(square, H100) == pytest.approx(556e3, rel=0.01)  # 1979 TOPS
    few = Work(16, 8192, 8192, 4, 4)
    assert few.weight_bytes == 8192 * 4096
    assert few.nbytes == 8192 * 4096 + 16 * 8192 + 16 * 8192 * 4
    assert work.memory_ns(few.nbytes, 3350) == pytest.approx(10.2e3, rel=0.02)
    assert work.ceiling_ns(few, H100, 3350) == work.memory_ns(few.nbytes, 3350)
    assert work.tensor_ns(square, H100, 915) == pytest.approx(2 * work.tensor_ns(square, H100))


def test_four_bits_count_twice_where_there_are_cores_for_them() -> None:
    a100 = Gpu("A100", 80, 108, 40 << 20, 40 << 30, 1410)
    assert work.tensor_ns(Work(512, 512, 512, 4, 4), a100) * 2 == work.tensor_ns(Work(512, 512, 512, 4, 5), a100)
    assert work.tensor_ns(Work(512, 512, 512, 4, 4), H100) == work.tensor_ns(Work(512, 512, 512, 8, 8), H100)


def test_one_bit_counts_eight_times_where_there_are_cores_for_it_and_pairs_of_planes_take_turns() -> None:
    bytes_ = work.tensor_ns(Work(512, 512, 512, 8, 8), H100)
    for bits, times in (((1, 1), 8), ((2, 1), 4), ((2, 2), 2), ((3, 3), 1)):
        assert work.tensor_ns(Work(512, 512, 512, *bits), H100) * times == pytest.approx(bytes_)


def test_buffers_rotate_past_the_cache() -> None:
    for nbytes in (1, 1000, 7 << 20, 33 << 20, 1 << 30):
        count = work.slots(nbytes, H100.l2_bytes, H100.memory_bytes)
        assert 2 <= count <= work.MAX_SLOTS
        assert count * nbytes >= work.ROTATION * H100.l2_bytes or count in (2, work.MAX_SLOTS)
        for ns in (1.0, 5e3, 1e6):
            calls = work.calls_in_graph(count, ns)
            assert calls % count == 0
            assert calls * max(ns, work.MIN_CALL_NS) >= work.GRAPH_NS


# ---------------------------------------------------------------------------------------------------------------------------- operands


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_values_span_their_interval(bits: int, signed: bool) -> None:
    values = operands.matrix(np.random.default_rng(0), (60, 60), bits, signed)
    low, high = operands.interval(bits, signed)
    assert (values.min(), values.max()) == (low, high)
    assert values.dtype == (np.int8 if signed else np.uint8)
    assert not (signed and bits == 1 and 0 in values)


@pytest.mark.parametrize(
    ("a", "b", "longest"), [((8, False), (8, True), 65793), ((8, True), (8, True), 131071), ((1, False), (1, False), 2**31 - 1)]
)
def test_longest_k_fits_and_one_more_does_not(a: tuple[int, bool], b: tuple[int, bool], longest: int) -> None:
    assert operands.longest_k(a, b) == longest
    products = [x * y for x in operands.interval(*a) for y in operands.interval(*b)]
    assert any(not -(2**31) <= product * (longest + 1) < 2**31 for product in products)


def test_extreme_problems_reach_the_bound() -> None:
    for sign in (1, -1):
        problem = operands.extreme_problem(65793, (8, False), (8, True), sign)
        sums = problem.a[0].astype(np.int64) @ problem.b.astype(np.int64)[:, 0]
        assert sums == 65793 * (255 * 127 if sign > 0 else -255 * 128)


def test_epilogues_round_halves_to_even_and_clamp() -> None:
    sums = np.array([[1, 3, 5, -1, 100, -100]], dtype=np.int64)
    quantized = Epilogue("quantized", 0.5, out_bits=4, out_signed=True)
    assert quantized.expected(sums).tolist() == [[0, 2, 2, 0, 7, -8]]
    assert Epilogue("quantized", 0.5, relu=True, out_bits=4, out_zero=3).expected(sums).tolist() == [[3, 5, 5, 3, 15, 3]]
    floats = Epilogue("float32", 2.0, np.ones(6, np.int32), np.full(6, 0.5, np.float32), relu=True).expected(sums)
    assert floats.tolist() == [[4.5, 8.5, 12.5, 0.5, 202.5, 0.0]]
    assert floats.dtype == np.float32


# ------------------------------------------------------------------------------------------------------------------------------ checks


@pytest.fixture(params=cuda_modules.builds())
def there(request: pytest.FixtureRequest) -> check.Device:
    return check.Device(cuda_modules.load(request.param))


def test_every_stage_passes_on_a_stand_in(there: check.Device) -> None:
    rng = np.random.default_rng(5)
    stages = [
        check.run_stage("pairs", lambda stage: check.pairs(there, stage, rng, [(3, 20, 140)], [(4, 4), (1, 1), (8, 3)]), 60),
        check.run_stage("edges", lambda stage: check.edges(there, stage, rng, 12, (20, 40, 300)), 60),
        check.run_stage("bounds", lambda stage: check.bounds(there, stage, 300, [(8, 8)]), 60),
    ]
    if hasattr(there.module.Weights, "to_host"):  # the double has no layout of its own
        stages.append(check.run_stage("packing", lambda stage: check.packing(there, stage, rng), 60))
    for stage in stages:
        assert stage.checks > 10
        assert (stage.failures, stage.cut) == ([], False), stage


def test_the_command_writes_what_it_found(there: check.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = importlib.import_module("ulp._gpu.native")
    native.replace_module(there.module)
    monkeypatch.setattr(check, "REDUCED_SHAPES", ((2, 20, 140),))
    monkeypatch.setattr(check, "REDUCED_PAIRS", ((4, 4),))
    if not hasattr(there.module.Weights, "to_host"):
        monkeypatch.setattr(check, "packing", lambda *_: iter(()))
    try:
        assert check.main(["--out", str(tmp_path / "found.json"), "--seconds", "4", "--seed", "7", "--reduced"]) == 0
    finally:
        native.replace_module(None)
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["seed"] == 7
    assert [stage["name"] for stage in found["stages"]] == ["pairs", "edges", "packing"]
    assert "exact" in "\n".join(report.check_lines(found, None))


def test_wrong_results_are_found_and_told(there: check.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Problem.expected
    monkeypatch.setattr(Problem, "expected", lambda self: honest(self) + (np.arange(self.a.shape[0])[:, None] == 2))
    rng = np.random.default_rng(6)
    stage = check.run_stage("pairs", lambda stage: check.pairs(there, stage, rng, [(3, 20, 140)], [(4, 4)]), 60)
    assert "20 of" in stage.failures[0]
    assert "at (2, 0)" in stage.failures[0]
    assert "3x20x140 u4 x u4" in stage.failures[0]
    assert len(stage.failures) <= check.MAX_FAILURES


def test_a_write_beside_the_result_is_found() -> None:
    problem = operands.random_problem(np.random.default_rng(0), (2, 3, 4), (4, False), (4, True))
    whole = check.surrounded(problem, problem.expected())
    assert whole.shape == (3, 3)
    assert (whole[2].view(np.uint8) == check.POISON).all()


def test_a_stage_ends_by_the_clock_or_by_a_fault() -> None:
    def slow(stage: check.Stage) -> Iterator[None]:
        while True:
            time.sleep(0.01)
            stage.checks += 1
            yield

    def broken(stage: check.Stage) -> Iterator[None]:
        yield
        raise RuntimeError("an illegal memory access was encountered")

    cut = check.run_stage("slow", slow, 0.05)
    assert cut.cut
    assert cut.checks >= 1
    failed = check.run_stage("broken", broken, 1)
    assert failed.failures == ["RuntimeError: an illegal memory access was encountered"]
    assert "1 WRONG" in check.summary([vars(failed)])[0]
    assert "cut by the clock" in check.summary([vars(cut)])[0]


# ----------------------------------------------------------------------------------------------------------------------------- building


def test_commands_build_for_the_device_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++")
    assert [build.architecture(c) for c in ("8.0", "8.9", "9.0", "12.0")] == ["80", "89", "90a", "120"]
    configure, compile_, install = build.module_job(tmp_path, "9.0", 14).commands
    assert "-DULP_CUDA_ARCHITECTURES=90a" in configure
    assert "-DULP_INPLACE=OFF" in configure
    assert compile_[-1] == "14"
    assert install[-1] == str(tmp_path / "site")
    jobs = build.cutlass_jobs(tmp_path, [Path("include")], "9.0")
    assert all("-DNDEBUG" in job.commands[0] for job in jobs)
    assert len({job.target for job in jobs}) == len(jobs)
    assert "sm_80" in str(build.cutlass_jobs(tmp_path, [Path("include")], "8.0")[0].missing)
    assert "nvidia-cutlass" in str(build.cutlass_jobs(tmp_path, [], "9.0")[0].missing)
    assert build.cublaslt_job(tmp_path, None, None).missing


def test_cublaslt_comes_from_the_wheel_before_the_toolkit(tmp_path: Path) -> None:
    wheel, kit = tmp_path / "nvidia" / "cu13", tmp_path / "cuda"
    assert build.find_cublaslt([tmp_path / "nvidia"], kit) is None
    for root, lib in ((kit, "lib64"), (wheel, "lib")):
        (root / "include").mkdir(parents=True)
        (root / "include" / "cublasLt.h").touch()
        (root / lib).mkdir()
        (root / lib / "libcublasLt.so.13").touch()
        assert build.find_cublaslt([tmp_path / "nvidia"], kit) == (root / "include", root / lib / "libcublasLt.so.13")
    (wheel / "include" / "cublasLt.h").unlink()
    assert build.find_cublaslt([tmp_path / "nvidia"], kit) == (kit / "include", wheel / "lib" / "libcublasLt.so.13")


def test_jobs_run_side_by_side_and_say_why_they_fail(tmp_path: Path) -> None:
    def job(name: str, *scripts: str) -> build.Job:
        return build.Job(tmp_path / name, tuple((sys.executable, "-c", script) for script in scripts))

    outcome = build.run_jobs(
        [
            job("good.so", "pass", "pass"),
            job("bad.so", "import sys; print('x.cu: error: no such thing'); sys.exit(1)"),
            build.Job(tmp_path / "absent.so", (("no-such-compiler",),)),
            build.Job(tmp_path / "none.so", missing="no headers"),
        ],
        tmp_path / "logs",
        100.0,
    )
    outcome |= build.run_jobs([job("slow.so", "import time; time.sleep(60)")], tmp_path / "logs", 0.2)
    assert outcome["good.so"] is None
    assert outcome["bad.so"] == "x.cu: error: no such thing"
    assert "not done after 0 s" in str(outcome["slow.so"])
    assert "no-such-compiler" in str(outcome["absent.so"])
    assert (tmp_path / "none.log").read_text(encoding="utf-8") == "no headers\n"


def test_parts_share_the_time_that_is_left(tmp_path: Path) -> None:
    parts = list(run.DEFAULT)
    boxes = sum(run.BOXES[part] for part in parts)
    assert {"build", *run.PARTS} == set(run.BOXES)
    left = boxes + 20.0
    runner = run.Runner(tmp_path, tmp_path, [], None, time.monotonic() + left + run.GRACE)
    for part in parts:
        seconds = runner.box(part, parts)
        assert run.BOXES[part] <= round(seconds) <= left  # none gets less than its own
        runner.deadline -= seconds / 2  # every part is done in half its box
        left -= seconds / 2
        # What is saved goes to whoever comes next.
        assert runner.box(part, [part]) == pytest.approx(left, abs=1)
    half = boxes / 2
    hurried = run.Runner(tmp_path, tmp_path, [], None, time.monotonic() + half + run.GRACE)
    assert hurried.box("build", parts) == pytest.approx(run.BOXES["build"] / 2, abs=1)
    assert run.Runner(tmp_path, tmp_path, [], None, 0.0).box("check", parts) == 0


def test_verdicts_of_the_sanitizers() -> None:
    assert run.sanitizer_verdict(0, True) == "clean"
    assert run.sanitizer_verdict(run.SANITIZER_EXIT, True) == "ERRORS FOUND"
    assert run.sanitizer_verdict(None, True).startswith("no error")
    assert run.sanitizer_verdict(None, False).startswith("stopped")
    assert run.sanitizer_verdict(1, True) == "failed: exit code 1"


def test_kernels_are_named_between_markers() -> None:
    seen = ["leading", "spin_kernel(long)", "imma", "reduce", "imma", "spin_kernel(long)", "spin_kernel(long)", "gemm"]
    assert names.split(seen) == [["imma", "reduce"], [], ["gemm"]]


# ------------------------------------------------------------------------------------------------------------------------------ report

ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m bench.cuda.run",
    "commit": "0123456789abcdef",
    "machine": {"cpu": "Test CPU"},
    "os": "Test OS",
    "ulp": {},
    "packages": {},
    "gpu": {
        "name": H100.name, "arch": 90, "sms": 132, "l2_bytes": H100.l2_bytes, "memory_bytes": H100.memory_bytes, "clock_mhz": 1980.0,
        "driver": "580", "cuda": "13.0",
    },
}  # fmt: skip


def _cell(name: str, kind: str, w: Work, ns: float, **info: Any) -> results.Cell:
    bits = (w.a_bits, w.b_bits) if kind == "ulp" else None
    return results.Cell(name, kind, bits, w.macs, w.nbytes, 10, [ns, ns * 1.1, ns * 0.9], info)


def _result(slow: float = 1.0) -> results.Result:
    """A run that meets every target at slow = 1."""
    copied = results.Cell("copy 1 GiB", "copy", None, 0, 3_000_000_000, 2, [1e6, 1e6, 1e6], {})
    groups = [results.Group("copy", (0, 0, 0), [copied])]
    square, fused = Work(8192, 8192, 8192, 8, 8), Work(8192, 8192, 8192, 4, 4, out_bytes=1)
    cells = [
        _cell(report.FUSED, "ulp", fused, 700e3 * slow, kernel="wgmma_128x256", splits=1),
        _cell(report.LT, "int8", square, 800e3, variant="algorithm 0 of 8", kernels=["sm90_xmma_gemm_i8i32"]),
        _cell(report.BF16, "bf16", square, 1400e3),
    ]
    groups.append(results.Group(report.SQUARE, (8192, 8192, 8192), cells))
    cells = [
        _cell(f"ulp {w.pair}", "ulp", w, ns * slow, kernel="wgmma_b1_128x256", splits=1)
        for w, ns in ((Work(8192, 8192, 8192, a, b), ns) for a, b, ns in ((1, 1, 190e3), (2, 1, 390e3), (2, 2, 700e3)))
    ]
    cells.append(_cell(report.LT, "int8", square, 800e3))
    groups.append(results.Group(report.planes_name(8192), (8192, 8192, 8192), cells))
    for (n, k), rows in work.decode():
        cells = [
            _cell(f"ulp {w.pair}", "ulp", w, slow * w.nbytes / 2500, kernel="wgmma_128x16", splits=4)
            for w in (Work(rows, n, k, a, b) for a, b in work.DECODE_PAIRS)
        ]
        w = Work(rows, n, k, 8, 8)
        cells += [_cell(report.LT, "int8", w, w.nbytes / 2000), _cell(report.BF16, "bf16", w, 2 * w.nbytes / 2000)]
        groups.append(results.Group(f"{rows}x{n}x{k}", (rows, n, k), cells))
    clocks = {group.name: {"during": {"sm_mhz": 1755.0}} for group in groups}
    return results.Result("cuda", ENVIRONMENT, {"clocks": clocks, "not_run": [], "cut": False}, None, {}, groups)


def test_targets_met_missed_and_not_measured() -> None:
    assert [v.met for v in report.verdicts(_result())] == [True] * 13
    missed = report.verdicts(_result(slow=1.3))
    assert [v.met for v in missed][:5] == [False] * 5  # of the squares
    bandwidth = next(v for v in missed if "bandwidth" in v.target)
    assert bandwidth.met is False
    assert bandwidth.found.startswith("64%")
    assert "0 of 12 meet it" in bandwidth.found
    empty = results.Result("cuda", ENVIRONMENT, {}, None, {}, [])
    assert {v.met for v in report.verdicts(empty)} == {None}
    assert "not measured" in report.targets_table(empty).text()


def test_every_table_is_made_and_survives_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = _result()
    results.save(result, tmp_path)
    assert results.load_all(tmp_path) == {"cuda": result}
    fast = _cell("wgmma_128x16/4", "ulp", Work(16, 8192, 8192, 4, 4), 14e3, kernel="wgmma_128x16", splits=4, picked=False)
    slow = _cell(
        "wgmma_128x16/2", "ulp", Work(16, 8192, 8192, 4, 4), 21e3, kernel="wgmma_128x16", splits=2, picked=True, modelled_clocks=30e3
    )
    group = results.Group("16x8192x8192 W4A4", (16, 8192, 8192), [fast, slow])
    clocks = {group.name: {"during": {"sm_mhz": 1500.0}}}
    results.save(results.Result("cuda_kernels", ENVIRONMENT, {"clocks": clocks}, None, {}, [group]), tmp_path)
    stage = check.Stage("pairs", 100, 3.0, failures=["wgmma_128x16 3x20x140: wrong"])
    (tmp_path / report.CHECKS).write_text(
        json.dumps({"device": H100.name, "arch": 90, "seed": 1, "stages": [vars(stage)]}), encoding="utf-8"
    )
    (tmp_path / report.SANITIZERS).write_text(json.dumps({"memcheck": "clean"}), encoding="utf-8")
    assert report.main(["--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for wanted in (
        "CUDA: targets", "CUDA: 8192x8192x8192", "8192x8192x8192 few bits", "wgmma_b1_128x256",
        "few rows, N = 8192, K = 8192", "sm90_xmma_gemm_i8i32", "1.50x", "0.95", "wgmma_128x16/4",
        "memcheck: clean", "1 WRONG", "commit 0123456789ab", "moves 3.00 TB/s",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert report.main(["--results", str(tmp_path / "none")]) == 1


def test_ceilings_in_the_report_follow_the_clock() -> None:
    result = _result()
    group = result.find(report.SQUARE)
    assert group is not None
    ns, by = report.ceiling(result, group, group.cells[0])
    assert by == "tensor cores"
    assert ns == pytest.approx(556e3 * 1830 / 1755, rel=0.01)


# ----------------------------------------------------------------------------------------------------------------------------- dry run


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: _Event) -> float:
        return max(1e-6, (other.at - self.at) * 1e3)


def _torch_on_the_cpu() -> Any:
    """torch, its device being the CPU: nothing waits, and events read the host's clock."""
    real: Any = pytest.importorskip("torch")

    class Module(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    fake: Any = Module("torch")

    def here(make: Any) -> Any:
        return lambda *arguments, **options: make(*arguments, **{**options, "device": "cpu"})

    for maker in ("empty", "zeros", "full", "randint", "randn", "tensor"):
        setattr(fake, maker, here(getattr(real, maker)))
    properties = types.SimpleNamespace(
        name="CPU", major=9, minor=0, multi_processor_count=4, L2_cache_size=100, total_memory=1 << 28, uuid="0"
    )
    stream = types.SimpleNamespace(cuda_stream=0)
    fake.cuda = types.SimpleNamespace(
        is_available=lambda: True, get_device_properties=lambda _: properties, current_stream=lambda: stream, synchronize=lambda: None,
        Event=_Event,
    )  # fmt: skip
    fake.version = types.SimpleNamespace(cuda="none")
    return fake


def _nvml() -> Any:
    numbers = ("ClockInfo", "Temperature", "PowerUsage", "MaxClockInfo")
    calls: dict[str, Any] = {f"nvmlDeviceGet{name}": lambda *_: 1000 for name in numbers}
    return types.SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda _: 0, nvmlSystemGetDriverVersion=lambda: "none", NVML_CLOCK_SM=0,
        NVML_CLOCK_MEM=1, NVML_TEMPERATURE_GPU=0, **calls,
    )  # fmt: skip


class _Bridge:
    """The emulated module for operands in host memory, which the emulator refuses: they are copied to its memory and back."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.Weights = types.SimpleNamespace(from_device=self._pack)
        # Records of the given fields, to be repeated with the copied operands.
        self.Activations = types.SimpleNamespace
        self.Epilogue = functools.partial(types.SimpleNamespace, kind="int32")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def _copy(self, pointer: int, size: int) -> Any:
        return self.module.Buffer.from_numpy(np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer)), 0)

    def _pack(self, pointer: int, k: int, n: int, *rest: Any) -> Any:
        copy = self._copy(pointer, k * n)
        return self.module.Weights.from_device(copy.pointer, k, n, *rest)

    def gemm(self, a: Any, weights: Any, epilogue: Any, **call: Any) -> None:
        operand = self._copy(a.pointer, a.m * a.row_stride)
        dtype = np.dtype(np.uint8 if epilogue.kind == "quantized" else np.int32)
        out = self.module.Buffer(a.m * weights.n * dtype.itemsize, 0)
        workspace = self.module.Buffer(max(1, call["workspace_bytes"]), 0)
        call |= {"workspace": workspace.pointer if call["workspace_bytes"] else 0}
        inside = self.module.Activations(**{**vars(a), "pointer": operand.pointer})
        self.module.gemm(inside, weights, self.module.Epilogue(**vars(epilogue)), **{**call, "out": out.pointer})
        result = self.module.to_numpy(out.pointer, (a.m, weights.n), dtype, 0, 0)
        ctypes.memmove(call["out"], result.ctypes.data, result.nbytes)


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Everything of `measure` but the device: the emulated kernels, torch on the CPU, sizes that take no time."""
    module = cuda_modules.load_emulated()
    if module is None:
        pytest.skip(cuda_modules.NO_EMULATOR)
    monkeypatch.setitem(sys.modules, "torch", _torch_on_the_cpu())
    monkeypatch.setitem(sys.modules, "pynvml", _nvml())
    monkeypatch.setattr(device, "_graph", lambda start, _: start)
    for name, value in {
        "SQUARE": 64, "LAYERS": ((48, 256), (64, 64)), "TARGET_LAYERS": ((48, 256),), "DECODE_ROWS": (1, 16), "PREFILL_ROWS": (20,),
        "DECODE_PAIRS": ((4, 4), (8, 3)), "PLANE_PAIRS": ((1, 1), (2, 2)), "PLANE_ROWS": (64, 1), "PLANE_SWEEP_ROWS": (64,), "GRAPH_NS": 1,
    }.items():  # fmt: skip
        monkeypatch.setattr(work, name, value)
    for where, name in ((measure, "SQUARE_NAME"), (report, "SQUARE")):
        monkeypatch.setattr(where, name, "64x64x64")
    monkeypatch.setattr(measure, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(measure, "SWEEP_SPLITS", (1, 2))
    for where, name in ((measure, "ROUNDS"), (measure, "LONG_ROUNDS"), (measure, "SWEEP_ROUNDS"), (device, "QUICK_REPLAYS")):
        monkeypatch.setattr(where, name, 1)
    monkeypatch.setattr(machine, "describe", lambda _: {**ENVIRONMENT, "commit": None})
    monkeypatch.setattr(names, "of_calls", lambda calls: {call.name: ["named"] for call in calls})
    native = importlib.import_module("ulp._gpu.native")
    native.replace_module(_Bridge(module))
    for cached in (device.torch, device._nvml):
        cached.cache_clear()
    yield module
    native.replace_module(None)
    for cached in (device.torch, device._nvml):
        cached.cache_clear()


@pytest.mark.parametrize("part", list(measure.PARTS))
def test_a_dry_run_on_the_emulator(dry: Any, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--libraries", str(tmp_path), "--seconds", "200", "--commit", "feed", "--command", "dry"]
    measure.main([part, *arguments])
    result = results.load_all(tmp_path)[measure.PARTS[part][0]]
    assert result.environment["commit"] == "feed"
    assert not result.settings["cut"]
    wrong = [row for row in result.settings["not_run"] if "M > 16" not in row["reason"]]
    assert wrong == []
    if part == "speed":
        shapes = {"64x64x64", "1x48x256", "16x48x256", "1x64x64", "16x64x64", "20x64x64"}
        assert {g.name for g in result.groups} == shapes | {"copy", "64x64x64 few bits", "1x64x64 few bits"}
        few = result.find("16x48x256")
        assert few is not None
        assert {f"ulp W{w}A{a}" for a, w in work.DECODE_PAIRS} <= {c.name for c in few.cells}
        assert result.peers["cuBLASLt int8"]["why_unavailable"] == "not built"
        assert report.tables(result)
    else:
        cells = [c for g in result.groups for c in g.cells if c.kind == "ulp"]
        assert {str(c.info["kernel"]) for c in cells} >= {"wgmma_128x16", "mma_s8_64x16"}
        assert sum(bool(c.info["picked"]) for c in cells) >= len(result.groups) - 1
        assert report.picks_table(result).rows


def test_a_contestant_that_is_wrong_is_refused(dry: Any, tmp_path: Path) -> None:
    arguments = argparse.Namespace(out=tmp_path, seconds=60.0, libraries=tmp_path, commit=None, command="dry")
    bench = measure.Bench("cuda", arguments)
    torch = device.torch()
    out = [torch.zeros(4) for _ in range(2)]
    honest = device.Call("honest", "ulp", lambda slot: out[slot].fill_(1), out, 1, 1, 1e3, right=lambda x: bool((x == 1).all()))
    idle = device.Call("idle", "ulp", lambda _: None, out, 1, 1, 1e3, right=honest.right)
    assert bench.prepared("g", "honest", lambda: honest) == [honest]
    assert bench.prepared("g", "idle", lambda: idle) == []
    assert bench.not_run == [{"group": "g", "name": "idle", "reason": "idle is wrong when called"}]
    group = bench.time("g", (1, 1, 1), [honest, idle], 3)
    assert group is not None
    assert [c.name for c in group.cells] == ["honest"]
    with pytest.raises(RuntimeError, match="idle is wrong"):
        device.fastest([idle])


SMALL = (conv.Layer(3, 8, 7, 2, 9, 1), conv.Layer(16, 20, 1, 1, 4, 3))


def test_resnets_convolutions_are_all_there() -> None:
    assert sum(layer.count for layer in conv.RESNET50) == 53
    assert sum(layer.count * layer.macs(1) for layer in conv.RESNET50) == 4_087_136_256
    assert len({layer.name for layer in conv.RESNET50}) == len(conv.RESNET50)


def test_convolutions_are_checked_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = cuda_modules.load_emulated()
    if module is None:
        pytest.skip(cuda_modules.NO_EMULATOR)
    native = importlib.import_module("ulp._gpu.native")
    native.replace_module(module)
    try:
        assert not conv.check(tmp_path, 0.0, SMALL)  # the time is over before it begins
        assert conv.check(tmp_path, 60.0, SMALL)
        found = json.loads((tmp_path / conv.CHECKS).read_text("utf-8"))
        assert set(found["layers"].values()) == {"equal"}
        assert len(found["layers"]) == len(SMALL) * len(conv.CHECKED)
        monkeypatch.setattr(conv, "Problem", None)
        assert conv.check(tmp_path, 0.0, SMALL)  # nothing is left
    finally:
        native.replace_module(None)


class _CudnnTensor:
    """A tensor of the stand-in for cuDNN's frontend: how it is made of others."""

    def __init__(self, make: Any = None) -> None:
        self.make = make

    def set_output(self, _: bool) -> _CudnnTensor:
        return self

    set_data_type = set_dim = set_stride = set_output


class _CudnnGraph:
    """Graphs of cuDNN's frontend, computed by torch on the CPU: two plans, of which the first writes nothing."""

    def __init__(self, **_: Any) -> None:
        self.steps: list[str] = []

    def __getattr__(self, name: str) -> Any:
        assert name in ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans"), name
        return lambda *_: self.steps.append(name)

    def tensor(self, *, name: str, dim: list[int], stride: list[int], data_type: Any) -> _CudnnTensor:
        assert len(dim) == len(stride) == 4, (name, data_type)
        return _CudnnTensor()

    def conv_fprop(self, *, image: Any, weight: Any, padding: list[int], stride: list[int], dilation: list[int], **_: Any) -> _CudnnTensor:
        conv2d = importlib.import_module("torch").nn.functional.conv2d
        return _CudnnTensor(lambda at: conv2d(at[image].float(), at[weight].float(), None, stride, padding, dilation))

    def mul(self, *, a: Any, b: Any, **_: Any) -> _CudnnTensor:
        return _CudnnTensor(lambda at: a.make(at) * at[b])

    def relu(self, **given: Any) -> _CudnnTensor:
        return _CudnnTensor(lambda at: given["input"].make(at).relu())

    def get_execution_plan_count(self) -> int:
        assert self.steps[-1] == "build_plans"
        return 2

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return 16 * index

    def execute_plan_at_index(self, pack: Any, workspace: Any, index: int, handle: Any) -> None:
        assert handle is not None
        result = next(tensor for tensor in pack if tensor.make)
        if index == 1:
            assert workspace.numel() >= 16
            pack[result].copy_(result.make(pack).round().clamp(0, 127))


def _cudnn() -> Any:
    """A stand-in for the package `cudnn`."""
    module: Any = types.ModuleType("cudnn")
    module.__spec__ = importlib.util.spec_from_loader("cudnn", None)
    for name in ("data_type", "heur_mode", "build_plan_policy"):
        setattr(module, name, types.SimpleNamespace(INT8=1, INT32=2, FLOAT=3, A=4, FALLBACK=5, ALL=6))
    module.pygraph, module.create_handle, module.set_stream = _CudnnGraph, object, lambda **_: None
    return module


def test_a_dry_run_of_convolutions(dry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("ulp._gpu.native").replace_module(dry)
    monkeypatch.setitem(sys.modules, "cudnn", _cudnn())
    monkeypatch.setattr(conv, "ROUNDS", 1)
    monkeypatch.setattr(conv_peers, "MAX_SLOTS", 2)
    arguments = argparse.Namespace(out=tmp_path, seconds=100.0, libraries=tmp_path, commit="feed", command="dry")
    for batches in ((2,), (2, 3)):
        bench = measure.Bench("cuda_conv", arguments)
        conv.speed(bench, SMALL, batches)
        stem = {"name": "cuDNN int8", "reason": "3 channels: its int8 kernels take multiples of 4"}
        assert [{"name": row["name"], "reason": row["reason"]} for row in bench.not_run] == [stem]
    result = results.load(tmp_path / "cuda_conv.json")
    assert [group.name for group in result.groups] == [f"batch {n}, {layer.name}" for n in (2, 3) for layer in SMALL]
    assert {cell.name for group in result.groups for cell in group.cells} == (
        {f"ulp W{w}A{a}" for a, w in conv.PAIRS} | {"torch fp16", "torch bf16", "cuDNN int8"}
    )


def small(nn: Any) -> Any:
    """A network of the layers of `nn`, as those of bench.subjects.networks are."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, first=True), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(network, "architecture", small)
    monkeypatch.setattr(network, "SIZE", 8)
    monkeypatch.setattr(network, "ROUNDS", 1)
    clear = network.compiled.cache_clear
    clear()
    yield
    clear()


@pytest.mark.usefixtures("small_network")
def test_a_network_is_checked_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = cuda_modules.load_emulated()
    if module is None:
        pytest.skip(cuda_modules.NO_EMULATOR)
    native = importlib.import_module("ulp._gpu.native")
    native.replace_module(module)
    try:
        assert not network.check(tmp_path, 0.0)  # the time is over before it begins
        assert network.check(tmp_path, 60.0)
        assert [row[:2] for row in network.model(((4, 4),))] == [("W4A4", 8), ("W4A4", 64)]
        monkeypatch.setattr(network, "compiled", None)
        assert network.check(tmp_path, 0.0)  # nothing is left
    finally:
        native.replace_module(None)


@pytest.mark.usefixtures("small_network")
def test_a_dry_run_of_a_network(dry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("ulp._gpu.native").replace_module(dry)
    monkeypatch.setattr(network, "call", lambda there, x: device.torch().from_numpy(there(x.numpy())))
    arguments = argparse.Namespace(out=tmp_path, seconds=100.0, libraries=tmp_path, commit="feed", command="dry")
    for batches in ((2,), (2, 3)):
        bench = measure.Bench("cuda_network", arguments)
        network.speed(bench, batches=batches)
        assert bench.not_run == []
    result = results.load(tmp_path / "cuda_network.json")
    assert [group.name for group in result.groups] == ["batch 2, ResNet-50", "batch 3, ResNet-50"]
    assert {cell.name for group in result.groups for cell in group.cells} == {"ulp W4A4", "ulp W1A2", "torch fp16"}
