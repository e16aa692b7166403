"""Settings for the whole suite: hypothesis profiles, and process-wide settings put back after each test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before ulp is imported, in this process and those that tests start: what somebody tuned on this machine is not what is tested.
os.environ["ULP_TUNE_CACHE"] = "off"
# For `bench` and `tools`. At the end, so that an installed ulp comes before the source tree's.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import ulp

# Kernels run in microseconds, the first call of a shape allocates: a deadline would measure the machine.
settings.register_profile("dev", deadline=None, max_examples=60)
settings.register_profile("ci", deadline=None, max_examples=300, derandomize=True, print_blob=True)
# Under AddressSanitizer or an emulator everything is ten times slower.
settings.register_profile("slow", deadline=None, max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(autouse=True)
def _process_settings() -> Iterator[None]:
    """Each test starts with the settings of the import and leaves them so."""
    isa, threads = ulp.get_isa(), ulp.get_num_threads()
    yield
    ulp.set_isa(isa)
    ulp.set_num_threads(threads)
    # The benchmarks' peers turn gradients off for all of the process. Some tests have a double of torch, without gradients.
    if hasattr(torch := sys.modules.get("torch"), "set_grad_enabled"):
        torch.set_grad_enabled(True)  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs by integers of ulp does not depend on how fast onnxruntime was while a model was loaded."""
    monkeypatch.setattr("ulp.onnx.rivals.ratio", lambda _ours, _theirs: 1.0)
