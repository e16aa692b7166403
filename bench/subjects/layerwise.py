"""Every tensor of a compiled network beside the int64 reference, `tools.reference.plan`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from .interface import WrongResultError
from .models import F32


class _Both:
    """A plan and its reference, given the same steps; in the end each tensor is an output of both."""

    def __init__(self, reference: Any) -> None:
        self.plan = importlib.import_module("ulp._core").Plan()
        self.reference = reference
        self.tensors: list[int] = []
        self.outputs: list[int] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**fields: Any) -> Any:
            result = getattr(self.plan, name)(**fields)
            expected = getattr(self.reference, name)(**fields)
            if name in ("codes", "floats"):
                if result != expected:
                    raise AssertionError(f"tensor {result} of the plan is {expected} of the reference")
                self.tensors.append(result)
            return result

        return call

    def output(self, tensor: int, nhwc: bool) -> None:
        self.outputs.append(tensor)
        for plan in (self.plan, self.reference):
            plan.output(tensor=tensor, nhwc=nhwc)

    def finalize(self, *arguments: Any) -> None:
        for tensor in self.tensors:
            if tensor not in self.outputs:
                self.output(tensor, True)
        self.plan.finalize(*arguments)
        self.reference.finalize(*arguments[:2])


def check(network: Any, x: F32) -> int:
    """Compile a calibrated ulp.nn network in both ways and compare every tensor on one image; how many there were.

    WrongResultError names the first step whose result differs.
    """
    # Imported here: the reference imports ulp, which the benchmarks do without where it is not installed.
    from tools.reference.plan import ReferencePlan

    made: list[_Both] = []

    def both() -> _Both:
        made.append(_Both(ReferencePlan()))
        return made[-1]

    with mock.patch.object(importlib.import_module("ulp.nn.lower"), "new_plan", both):
        importlib.import_module("ulp.nn").compile(network, x)
    plan = made[0]
    results = dict(zip(plan.outputs, zip(plan.plan.run(x[:1], None), plan.reference.run(x[:1]), strict=True), strict=True))
    for step, tensor in ((made_by, target) for made_by in plan.plan.steps() for target in made_by["targets"]):
        own, expected = results[tensor]
        if not np.array_equal(own, expected):
            wrong = int(np.count_nonzero(own != expected))
            raise WrongResultError(
                f"{step['name']} ({step['method']}), tensor {tensor}: {wrong} of {own.size} values are not the reference's"
            )
    return len(plan.outputs)
