"""What the process does around a call: fork and exit with threads inside it, sub-interpreters, objects that nobody initialised."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest
from interpreter import output_of, run_python

import ulp
from ulp import _core

NETWORKS = """
import os, signal, threading, time, warnings
import numpy as np
import ulp
from ulp import nn
warnings.simplefilter("ignore")  # Python warns of fork beside threads: what is tested
ulp.set_num_threads(2)
x = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bits=3), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10, bits=4)).calibrate([x])
tiny = nn.Sequential(nn.Linear(8, 8, bits=3)).calibrate([x[0, 0, :, :8]])
small = nn.compile(tiny, (1, 8), tune=False)
calls = {
    "latency": lambda run=nn.compile(network, x, tune=False): run(x),
    "throughput": lambda run=nn.compile(network, x, tune=False, hint="throughput"): run(x),
    "small": lambda: small(x[0, 0, :, :8].copy()),
    "gemm": lambda a=np.ones((300, 512), np.uint8), w=ulp.pack(np.ones((512, 192), np.uint8), 1): ulp.gemm(a, w),
}
call = calls[os.environ["CALL"]]
"""

FORK = """
expected = call()
stop = False
def loop():
    while not stop: call()
threads = [threading.Thread(target=loop) for _ in range(4)]
for thread in threads: thread.start()
statuses = []
for _ in range(50):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if all(np.array_equal(call(), expected) for _ in range(2)) else 3)
    statuses.append(os.waitpid(child, 0)[1])
stop = True
for thread in threads: thread.join()
print(statuses == [0] * 50, statuses)
"""

END = """
def loop():
    while True: call()
for _ in range(4): threading.Thread(target=loop, daemon=True).start()
time.sleep(0.1)
print("end")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("call", ["latency", "throughput", "small", "gemm"])
def test_children_forked_while_other_threads_are_inside_a_call(call: str) -> None:
    assert output_of(NETWORKS + FORK, CALL=call).startswith("True")


@pytest.mark.parametrize("call", ["latency", "throughput", "gemm"])
def test_daemon_threads_inside_a_call_at_exit(call: str) -> None:
    for _ in range(3):
        done = run_python(NETWORKS + END, CALL=call)
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# The module that makes interpreters, under its names in several versions of Python.
SUB_INTERPRETER = """
try:
    import _interpreters as interpreters
    made = interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    made = interpreters.create(isolated=False)
PROGRAM = '''
import warnings
warnings.simplefilter("ignore")  # numpy warns, too
try:
    import ulp
except ImportError as error:
    print("refused:", error, flush=True)
'''
interpreters.run_string(made, PROGRAM)
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="sub-interpreters are CPython's")
@pytest.mark.parametrize("first", ["", "import ulp"])
def test_a_sub_interpreter_is_refused(first: str) -> None:
    # Where the main interpreter has imported numpy, numpy itself may refuse first.
    expected = "refused: ulp cannot be imported in a sub-interpreter" if not first else "refused: "
    assert output_of(first + SUB_INTERPRETER).startswith(expected)


def test_the_native_module_survives_its_removal_from_sys_modules() -> None:
    program = (
        "import sys, ulp; old = ulp._core; del sys.modules['ulp._core']; import ulp._core; assert ulp._core is old; print(old.__name__)"
    )
    assert output_of(program) == "ulp._core\n"


def test_objects_that_nobody_initialised() -> None:
    """They would hold memory that nobody has filled."""
    for cls in (_core.Packed, _core.Plan):
        makers: tuple[Any, ...] = cls.__mro__
        for maker in makers:
            with pytest.raises(TypeError):
                maker.__new__(cls)
    with pytest.raises(TypeError, match="cannot be made from Python"):
        _core.Packed()
    assert _core.Plan().steps() == []


INTERRUPT = """
import os, signal, threading, time
import numpy as np
import ulp
from ulp import nn
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
ulp.set_num_threads(int(os.environ["THREADS"]))
a, w = np.ones((2**13, 2048), np.uint8), ulp.pack(np.ones((2048, 2048), np.uint8), 8)
network = nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1, bits=8) for _ in range(8)])
for layer in network: layer.quantizer = nn.Quantizer(8, 0.1, 0)
compiled = nn.compile(network, (1, 16, 32, 32), tune=False)
x = np.ones((1024, 16, 32, 32), np.float32)
before = ulp.gemm(a[:5], w)
for call in (lambda: ulp.gemm(a, w), lambda: compiled(x)):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        call()
    except KeyboardInterrupt:
        print("interrupted", np.array_equal(ulp.gemm(a[:5], w), before), compiled(x[:1]).shape)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals to the own process")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_ends_a_long_call(threads: str) -> None:
    """And the next calls work. The portable kernels: with them a call is long that needs little memory."""
    assert output_of(INTERRUPT, THREADS=threads, ULP_MAX_CPU_ISA="baseline") == "interrupted True (1, 16, 32, 32)\n" * 2


def test_no_columns_in_any_number_of_rows() -> None:
    """Takes no time per row."""
    rows = 2**40
    assert ulp.gemm(np.empty((rows, 0), np.uint8), ulp.pack(np.empty((0, 0), np.uint8), 1)).shape == (rows, 0)


PROGRESS = """
import os, signal, sys, threading, warnings
import tqdm
warnings.simplefilter("ignore")
from ulp._progress import progress_bar
sys.stderr.isatty = lambda: True
stop = False
def loop():
    while not stop:
        for _ in progress_bar(range(2), True, "count", "step"): pass
threads = [threading.Thread(target=loop) for _ in range(4)]
for thread in threads: thread.start()
statuses = []
for _ in range(100):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        for _ in progress_bar(range(2), True, "count", "step"): pass
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
stop = True
for thread in threads: thread.join()
print(statuses == [0] * 100, statuses)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_children_forked_while_other_threads_show_progress() -> None:
    pytest.importorskip("tqdm")
    assert output_of(PROGRESS).startswith("True")
