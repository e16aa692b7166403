"""Threads: same results for any number of them, after fork, in many Python threads, beside other libraries, and within limits."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from interpreter import output_of, run_python
from reference import Array, assert_exact, matmul, random_matrix

import ulp
from ulp.config import default_threads

# Large enough to be split, odd enough for ragged parts.
SHAPE = (203, 301, 517)


def problem(
    shape: tuple[int, int, int] = SHAPE, bits: int = 3, seed: int = 0, a_bits: int | None = None
) -> tuple[Array, ulp.PackedMatrix, Array]:
    m, n, k = shape
    rng = np.random.default_rng(seed)
    a = random_matrix(rng, (m, k), a_bits or bits, False)
    b = random_matrix(rng, (k, n), bits, True)
    return a, ulp.pack(b, bits), matmul(a, b)


@pytest.mark.parametrize("shape", [SHAPE, (1, 4096, 1024), (2000, 9, 300), (8, 2048, 512), (640, 640, 640)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(shape: tuple[int, int, int]) -> None:
    a, w, expected = problem(shape)
    scale = np.linspace(0.001, 0.01, shape[1], dtype=np.float32)
    ulp.set_num_threads(1)
    scaled = ulp.gemm(a, w, scale=scale)
    for threads in (1, 2, 3, 5, 16):
        ulp.set_num_threads(threads)
        assert ulp.get_num_threads() == threads
        assert_exact(ulp.gemm(a, w), expected, f"{threads} threads")
        assert_exact(ulp.gemm(a, w, scale=scale), scaled, f"{threads} threads, scaled")
        assert_exact(
            ulp.gemm(a, w, b_zero=np.arange(shape[1]) % 7, a_zero=2),
            matmul(a, w.unpack(), 2, np.arange(shape[1]) % 7),
            f"{threads} threads, zeros",
        )


@pytest.mark.parametrize("kernel", [kernel for kernel in ulp.kernels() if kernel.isa in ulp.available_isas()], ids=str)
def test_every_kernel_in_threads(kernel: ulp.Kernel) -> None:
    pair = max(kernel.pairs, key=lambda pair: (min(pair), pair))
    a, w, expected = problem(SHAPE, pair[1], a_bits=pair[0])
    ulp.set_num_threads(3)
    for _ in range(3):
        assert_exact(ulp.gemm(a, w, bits=pair, kernel=kernel.name), expected, f"{kernel} bits={pair}")


def test_many_python_threads_at_once() -> None:
    """One packed matrix and settings that change under way, in eight threads."""
    ulp.set_num_threads(2)
    cases = [problem((50 + i, 130, 257), 1 + i % 8, i) for i in range(8)]
    start = threading.Barrier(8)

    def work(i: int) -> None:
        a, w, expected = cases[i]
        start.wait(timeout=60)
        for turn in range(30):
            if i == 0:
                ulp.set_num_threads(1 + turn % 4)
            assert_exact(ulp.gemm(a, w), expected, f"thread {i}, turn {turn}")

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, i) for i in range(8)]:
            future.result()


def test_the_interpreter_runs_during_a_call() -> None:
    """The GIL is released: another thread makes progress while gemm works."""
    a, w, _ = problem((2000, 1000, 2000), 8)
    done = threading.Event()
    ticks = 0

    def count() -> None:
        nonlocal ticks
        while not done.wait(0.0005):
            ticks += 1

    counter = threading.Thread(target=count)
    counter.start()
    interval = sys.getswitchinterval()
    before = ticks
    try:
        # A counter that could run only between bytecodes would not get a turn within one native call.
        sys.setswitchinterval(1000)
        ulp.gemm(a, w)
        during = ticks - before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        counter.join()
    assert during > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_fork() -> None:
    """Children forked after the pool has started work, in parallel and nested, and so does the parent afterwards."""
    program = """
        import os, sys, warnings
        import numpy as np, ulp
        warnings.simplefilter("ignore")  # Python warns of fork beside threads: what is tested
        ulp.set_num_threads(3)
        a = np.arange(200 * 300).reshape(200, 300) % 8
        w = ulp.pack(np.arange(300 * 170).reshape(300, 170) % 7 - 3, bits=3)
        expected = a @ w.unpack().astype(np.int64)
        assert (ulp.gemm(a, w) == expected).all()
        def child(depth):
            assert (ulp.gemm(a, w) == expected).all()
            if depth:
                pid = os.fork()
                if pid == 0:
                    child(depth - 1)
                assert os.waitpid(pid, 0)[1] == 0
            os._exit(0)
        pids = []
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                try:
                    child(2)
                finally:
                    os._exit(1)
            pids.append(pid)
            assert (ulp.gemm(a, w) == expected).all()
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
        print("done")
    """
    assert output_of(program) == "done\n"


def test_in_multiprocessing() -> None:
    program = """
        import multiprocessing, pickle
        import numpy as np, ulp
        def work(w):
            return int(ulp.gemm(np.ones((64, 500), dtype=np.uint8), w).sum())
        if __name__ == "__main__":
            ulp.set_num_threads(2)
            w = ulp.pack(np.ones((500, 300), dtype=np.uint8), bits=2)
            work(w)
            with multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn").Pool(2) as pool:
                print(set(pool.map(work, [w] * 6)))
    """
    assert output_of(program, PYTHONWARNINGS="ignore::DeprecationWarning") == f"{{{64 * 500 * 300}}}\n"


def test_beside_torch() -> None:
    """torch's OpenMP team and ours in one process, taking turns and at the same time."""
    torch = pytest.importorskip("torch")
    a, w, expected = problem()
    x = torch.rand(400, 400)
    ulp.set_num_threads(2)

    def ours() -> None:
        for _ in range(20):
            assert_exact(ulp.gemm(a, w), expected, "beside torch")

    def theirs() -> None:
        for _ in range(20):
            assert bool(torch.isfinite(x @ x).all())

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(ours), pool.submit(theirs)]:
            future.result()
    assert_exact(ulp.gemm(torch.from_numpy(a), w), expected, "a torch tensor as a")


def test_threadpoolctl_sees_and_limits() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    a, w, expected = problem()
    ulp.set_num_threads(4)
    ours = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "ulp"]
    assert [(pool["num_threads"], pool["version"], pool["internal_api"]) for pool in ours] == [(4, ulp.__version__, "ulp")]
    with threadpoolctl.threadpool_limits(1):
        assert ulp.get_num_threads() == 1
        assert_exact(ulp.gemm(a, w), expected, "limited")
        assert "C interface" in ulp.show_config("dict")["threads"]
    assert ulp.get_num_threads() == 4
    with threadpoolctl.threadpool_limits({"ulp": 2}):
        assert ulp.get_num_threads() == 2
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert ulp.get_num_threads() == 4
    assert ulp.show_config("dict")["threads"] == "4 (ulp.set_num_threads)"


@pytest.mark.parametrize("order", ["import threadpoolctl, ulp", "import ulp, threadpoolctl"])
def test_threadpoolctl_in_either_order(order: str) -> None:
    pytest.importorskip("threadpoolctl")
    program = f"{order}; print([pool['num_threads'] for pool in threadpoolctl.threadpool_info() if pool['user_api'] == 'ulp'])"
    assert output_of(program, ULP_NUM_THREADS="3") == "[3]\n"


PRINT_THREADS = "import ulp; print(ulp.get_num_threads(), ulp.show_config('dict')['threads'], sep=': ')"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ULP_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3: 3 (ULP_NUM_THREADS)"),
        ({"ULP_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, "5: 5 (OMP_NUM_THREADS)"),
        ({"ULP_NUM_THREADS": "", "OMP_NUM_THREADS": "6,2"}, "6: 6 (OMP_NUM_THREADS)"),
        ({"ULP_NUM_THREADS": "1024", "OMP_NUM_THREADS": ""}, "1024: 1024 (ULP_NUM_THREADS)"),
    ],
)
def test_environment(environment: dict[str, str], expected: str) -> None:
    assert output_of(PRINT_THREADS, **environment).strip() == expected


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1025", "99999999999999999999", "\u0663"])
def test_a_wrong_number_of_threads_is_an_error(value: str) -> None:
    done = run_python("import ulp", ULP_NUM_THREADS=value)
    assert done.returncode != 0
    assert f"ULP_NUM_THREADS={value!r}: expected a number of threads from 1 to 1024" in done.stderr


def test_a_wrong_number_of_openmp_threads_is_a_warning() -> None:
    done = run_python("import ulp", ULP_NUM_THREADS="", OMP_NUM_THREADS="many")
    assert done.returncode == 0
    assert "ulp ignores OMP_NUM_THREADS='many'" in done.stderr


def cgroup_tree(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, content in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


CGROUPS: dict[str, tuple[str, dict[str, str], int | None]] = {
    "no cgroup": ("", {}, None),
    "version 2 without a limit": ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "version 2": ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "version 2, part of a core": ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "version 2, one and a half": ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "version 2, a parent's limit": (
        "0::/work/job\n",
        {"sys/fs/cgroup/work/job/cpu.max": "max 100000\n", "sys/fs/cgroup/work/cpu.max": "300000 100000\n"},
        3,
    ),
    "version 2, the least of all": (
        "0::/work/job\n",
        {"sys/fs/cgroup/work/job/cpu.max": "200000 100000\n", "sys/fs/cgroup/work/cpu.max": "300000 100000\n"},
        2,
    ),
    "version 2, path of the host": ("0::/docker/0123\n", {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
    "version 1": (
        "5:cpu,cpuacct:/job\n1:name=systemd:/\n",
        {"sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "version 1, mounted as cpu": (
        "5:cpuacct,cpu:/\n",
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1 without a limit": (
        "5:cpu:/\n",
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "a limit above the cores": ("0::/\n", {"sys/fs/cgroup/cpu.max": "99900000 100000\n"}, None),
    "nonsense": ("nonsense\n0::\n", {"sys/fs/cgroup/cpu.max": "a b c\n"}, None),
    "a period of zero": ("0::/\n", {"sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
}


@pytest.mark.parametrize(("membership", "files", "quota"), CGROUPS.values(), ids=CGROUPS.keys())
def test_cgroup_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: dict[str, str], quota: int | None) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    root = cgroup_tree(tmp_path, membership, files)
    assert default_threads(root) == ((8, "CPU affinity") if quota is None else (quota, "cgroup CPU quota"))


def test_affinity_is_respected() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + PRINT_THREADS
    assert output_of(program, ULP_NUM_THREADS="", OMP_NUM_THREADS="").strip() == "1: 1 (CPU affinity)"
