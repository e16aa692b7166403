"""The native module `ulp._cuda`: loaded when it is first needed, and why it cannot be where it cannot."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

HOW_TO_BUILD = "pip install . --config-settings=cmake.define.ULP_CUDA=ON, with nvcc 12.8 or newer on the PATH"

_module: Any = None
_devices: list[dict[str, Any]] | None = None


def load() -> Any:
    """The module `ulp._cuda`. RuntimeError where this build has none, or it does not load."""
    global _module
    if _module is None:
        try:
            _module = import_module("ulp._cuda")
        except ModuleNotFoundError:
            raise RuntimeError(f"this build of ulp has no CUDA module: rebuild it by {HOW_TO_BUILD}") from None
        except ImportError as error:
            raise RuntimeError(f"the CUDA module of ulp does not load: {error}") from None
    return _module


def replace_module(module: Any) -> None:
    """Use another build of the bindings; None: `ulp._cuda` again. For tests."""
    global _module, _devices
    _module, _devices = module, None


def devices() -> list[dict[str, Any]]:
    """What `_cuda.devices` says, asked once. RuntimeError where there is no module, no driver or no device."""
    global _devices
    module = load()
    if _devices is None:
        try:
            _devices = module.devices()
        except RuntimeError as error:
            raise RuntimeError(f"no CUDA device can be used: {error}; ulp.show_config() says what ulp sees") from None
    return _devices


def device_index(device: object) -> int | None:
    """The number of a CUDA device from "cuda", "cuda:1" or a torch.device; None for "cpu".

    TypeError, ValueError where there is no device of that number, RuntimeError where there is none at all.
    """
    text = str(device) if type(device).__module__ == "torch" else device
    if not isinstance(text, str):
        raise TypeError(f'device={device!r}: expected "cpu", "cuda" or "cuda:<number>"')
    if text == "cpu":
        return None
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", text, re.ASCII)
    if match is None:
        raise ValueError(f'device={text!r}: expected "cpu", "cuda" or "cuda:<number>"')
    count = len(devices())
    if match[1] is None:
        return int(load().current_device())
    if int(match[1]) >= count:
        raise ValueError(f"device={text!r}: this machine has {count} CUDA device{'s' if count > 1 else ''}, numbered from 0")
    return int(match[1])


def describe_module() -> str:
    """For `ulp.show_config`: what the module was built for, or why there is none."""
    try:
        facts = load().build_info()
    except RuntimeError as error:
        lacking = "no CUDA module" in str(error)
        return f"not built ({HOW_TO_BUILD})" if lacking else str(error)
    return f"CUDA {facts['cuda']}, architectures {facts['architectures']}"


def describe_devices() -> str:
    """For `ulp.show_config`: the devices, or why a module that is there has none."""
    try:
        load()
    except RuntimeError:
        return "none"
    try:
        found = devices()
    except RuntimeError as error:
        return f"none ({error})"
    return ", ".join(f"{i}: {d['name']} (sm_{d['arch']}, {d['sms']} SMs, {d['memory'] / 2**30:.0f} GiB)" for i, d in enumerate(found))
