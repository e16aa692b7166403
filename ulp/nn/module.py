"""`Module`, the base of networks as in torch, and `Sequential`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

from .calibrate import calibrate
from .graph import Shape
from .quantizer import as_float32
from .shapes import LayerError

Self = TypeVar("Self", bound="Module")


class IncompatibleKeys(NamedTuple):
    """Keys that `load_state_dict(strict=False)` did not find, and keys that it did not use."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A network, or a part of one. Subclass it, assign layers to attributes and write `forward`, as with `torch.nn.Module`.

    It is for inference: no gradients, no modes, no devices. `train()` and `eval()` exist so that code written for torch runs.
    """

    _modules: dict[str, Module]

    def __new__(cls: type[Self], *_args: Any, **_kwargs: Any) -> Self:
        """A module that takes attributes even if a subclass does not call super().__init__()."""
        module = super().__new__(cls)
        object.__setattr__(module, "_modules", {})
        return module

    def __init__(self) -> None:
        """Nothing: it exists for `super().__init__()`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module):
            self._modules[name] = value
        else:
            self._modules.pop(name, None)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._modules.pop(name, None)
        object.__delattr__(self, name)

    def add_module(self, name: str, module: Module) -> None:
        """Assign `module` to the attribute `name`, which may be a number."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        if not name or "." in name:
            raise KeyError(f'module name can\'t be empty or contain ".", got: {name!r}')
        setattr(self, name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, and an error that comes out of it names its layer."""
        try:
            return self.forward(*args, **kwargs)
        except LayerError as error:
            locate(error, self)
            raise

    def children(self) -> Iterator[Module]:
        """The modules assigned to this one."""
        return (module for _, module in self.named_children())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) for each module assigned to this one, each once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_modules(self, prefix: str = "", _seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) for this module and all below it, each once."""
        seen = set() if _seen is None else _seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def get_submodule(self, target: str) -> Module:
        """The module of a dotted name."""
        module: Module = self
        for name in target.split(".") if target else ():
            if name not in module._modules:
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            module = module._modules[name]
        return module

    def apply(self: Self, fn: Callable[[Module], None]) -> Self:
        """Call `fn` for all modules below this one, then for this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self: Self, mode: bool = True) -> Self:
        """Nothing: a network of integers is always in evaluation."""
        if mode not in (True, False):
            raise ValueError("training mode is expected to be boolean")
        return self

    def eval(self: Self) -> Self:
        """Nothing: a network of integers is always in evaluation."""
        return self

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """(name, float32 values) of weights and biases, under torch's names; copies."""
        for name, module in self.named_modules(prefix):
            for key, value in module._parameters().items():
                yield f"{name}.{key}" if name else key, value

    def parameters(self) -> Iterator[npt.NDArray[np.float32]]:
        """Weights and biases, float32 copies."""
        return (value for _, value in self.named_parameters())

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Torch's names with the values that the integers stand for, float32, and beside them what quantizes.

        "weight_scale" (O,) goes with each "weight"; "act_scale" and "act_zero", arrays of no dimensions, say how a layer's input is
        quantized, if that is known. `load_state_dict` gets exactly the same integers from it. Arrays are copies: `numpy.savez(file,
        **network.state_dict())` keeps them.
        """
        return {f"{name}.{key}" if name else key: value for name, module in self.named_modules() for key, value in module._state().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Take weights under torch's names, arrays or tensors, and quantize them; with `state_dict`'s own entries, take its integers.

        Where there is no "act_scale", a layer keeps the quantizer that it has: calibrate again after loading other weights.
        Nothing is changed if an error is raised: LayerError (a RuntimeError) in torch's words where keys are missing or unexpected
        (only with `strict`), where shapes differ or a value is not a finite real number.
        """
        parts = [(f"{name}." if name else "", module) for name, module in self.named_modules()]
        for prefix, module in parts:
            state_dict = module._translated(state_dict, prefix)
        missing: list[str] = []
        problems: list[str] = []
        used: set[str] = set()
        taken: list[tuple[Module, dict[str, npt.NDArray[np.float32]]]] = []
        for prefix, module in parts:
            values = {}
            for key, (shape, required) in module._expected().items():
                name = prefix + key
                if name not in state_dict:
                    if required:
                        missing.append(name)
                    continue
                used.add(name)
                found = tuple(np.shape(state_dict[name]))
                if found != shape:
                    problems.append(
                        f"size mismatch for {name}: copying a param with shape {_torch_size(found)} from checkpoint, "
                        f"the shape in current model is {_torch_size(shape)}."
                    )
                    continue
                try:
                    values[key] = as_float32(state_dict[name], name)
                except (TypeError, ValueError) as error:
                    problems.append(f"{error}.")
            taken.append((module, values))
        unexpected = [name for name in state_dict if name not in used]
        if strict:
            if missing:
                problems.insert(0, "Missing key(s) in state_dict: " + ", ".join(f'"{name}"' for name in missing) + ". ")
            if unexpected:
                problems.insert(0, "Unexpected key(s) in state_dict: " + ", ".join(f'"{name}"' for name in unexpected) + ". ")
        if problems:
            raise LayerError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(problems))
        for module, values in taken:
            if values:
                module._assign(values)
        return IncompatibleKeys(missing, unexpected)

    def calibrate(self: Self, batches: Any, method: str = "mse", **options: Any) -> Self:
        """Find the ranges of all quantizers from sample inputs: see `ulp.nn.calibrate`. Returns the network."""
        calibrate(self, batches, method, **options)
        return self

    @property
    def observable(self) -> bool:
        """Whether `calibrate` finds a range for this module."""
        return False

    def extra_repr(self) -> str:
        """What stands between the brackets where the module is printed."""
        return ""

    def __repr__(self) -> str:
        lines = [f"  ({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}(\n" + "\n".join(lines) + "\n)"

    # What layers fill in.

    def _parameters(self) -> dict[str, npt.NDArray[np.float32]]:
        return {}

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return {}

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        """Shape of each entry of a state dict, and whether it must be there."""
        return {}

    def _translated(self, state_dict: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:  # noqa: ARG002  # what layers override
        """The state dict with other names that the layer, which is called `prefix`, is known by as its own."""
        return state_dict

    def _assign(self, values: dict[str, npt.NDArray[np.float32]]) -> None:
        """Take entries of the right shapes, all finite."""


def locate(error: LayerError, network: Module) -> None:
    """Have the error name its layer as `network` does."""
    if error.layer is not None:
        for name, module in network.named_modules():
            if module is error.layer:
                error.name = name
                return


def _torch_size(shape: Iterable[int]) -> str:
    return f"torch.Size([{', '.join(str(side) for side in shape)}])"


class Sequential(Module):
    """Modules one after another: `Sequential(a, b)`, whose names are "0" and "1", or `Sequential({"first": a, "second": b})`."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0].items() if len(args) == 1 and isinstance(args[0], Mapping) else ((str(i), m) for i, m in enumerate(args))
        for name, module in named:
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        """The last module's result."""
        for module in self._modules.values():
            x = module(x)
        return x

    def append(self, module: Module) -> Sequential:
        """Add a module behind the last one. Returns the network."""
        self.add_module(str(len(self)), module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return list(self._modules.values())[index]
