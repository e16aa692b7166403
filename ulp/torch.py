"""Low-bit layers inside a live torch model: `convert` puts them in place of its Conv2d and Linear. Float in, float out, for inference.

    low = ulp.torch.convert(model, bits=3, calibrate=batches)
    with torch.inference_mode():
        y = low(x)

The converted layers are torch modules that hold plain buffers: weights in `bits` bits each, scales, the input's quantiser. So `state_dict`,
`copy.deepcopy`, pickle and `torch.save` work as for any module. They compute by the operators `torch.ops.ulp.conv2d` and
`torch.ops.ulp.linear`, whose arguments are those buffers and numbers: a graph of torch.compile or torch.export holds everything, and an
exported program that was saved runs wherever `ulp.torch` is imported. Export under torch.no_grad() where parts of the model stay in float.

For a whole network in integers, without torch between its layers, see `ulp.nn.compile`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeAlias

try:
    import torch
    from torch import Tensor
    from torch.nn.modules.conv import _ConvNd
except ImportError as missing:
    raise ImportError('ulp.torch needs torch 2.6 or newer: pip install torch, or pip install "ulp[torch]"') from missing

from . import nn
from ._torch_layers import Conv2d, Linear
from ._validate import bit_width
from .nn.observer import METHODS, Observer
from .nn.quantizer import WeightMethod, WeightRange

__all__ = ["Conv2d", "Converted", "Linear", "Report", "convert"]


@dataclass(frozen=True)
class Converted:
    """A layer that was converted: its name, class and bits, the batch normalisation that was folded into it, whether its input is known."""

    name: str
    kind: str
    bits: int
    act_bits: int
    folded: str | None
    calibrated: bool


@dataclass(frozen=True)
class Report:
    """What `convert` did. left: by name, why a layer with weights, or a batch normalisation, stayed as it was."""

    converted: list[Converted] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{c.name}: {c.kind} W{c.bits}A{c.act_bits}"
            + (f", {c.folded} folded in" if c.folded else "")
            + ("" if c.calibrated else ", not calibrated")
            for c in self.converted
        ]
        return "\n".join([*lines, *(f"{name}: left, {reason}" for name, reason in self.left.items())])


_CONV_ATTRIBUTES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")

Skip: TypeAlias = str | type | Callable[[str, Any], bool]


@dataclass
class _Target:
    """A layer of the model that is to be converted, and the batch normalisation that becomes part of it."""

    name: str
    layer: Any
    norm_name: str | None = None
    norm: Any = None

    def source(self) -> SimpleNamespace:
        """What `from_float` reads: the layer's attributes and, with the batch normalisation in them, its weights, calculated in float64."""
        layer, norm = self.layer, self.norm
        names = ("in_features", "out_features") if type(layer) is torch.nn.Linear else _CONV_ATTRIBUTES
        weight = layer.weight.detach().cpu().double()
        bias = None if layer.bias is None else layer.bias.detach().cpu().double()
        if norm is not None:
            mean, variance = norm.running_mean.cpu().double(), norm.running_var.cpu().double()
            scale = (variance + norm.eps).rsqrt() * (norm.weight.detach().cpu().double() if norm.affine else 1)
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = ((0 if bias is None else bias) - mean) * scale + (norm.bias.detach().cpu().double() if norm.affine else 0)
        arrays = {"weight": weight.float().numpy(), "bias": None if bias is None else bias.float().numpy()}
        return SimpleNamespace(**{name: getattr(layer, name) for name in names}, **arrays)


def convert(
    model: Any,
    bits: int = 3,
    act_bits: int | None = None,
    *,
    calibrate: Any = None,
    skip: Skip | Iterable[Skip] = (),
    first_bits: int | None = 8,
    last_bits: int | None = 8,
    inplace: bool = False,
    fold: bool = True,
    method: str = "mse",
    percentile: float = 99.99,
    act_signed: bool | None = None,
    act_asymmetric: bool = False,
    dynamic: bool = False,
    per_channel: bool = True,
    weight_method: WeightMethod = "mse",
    weight_range: WeightRange = "full",
    progress: bool = True,
) -> Any:
    """A torch model with low-bit layers in place of its Conv2d and Linear, in eval mode; `model` itself with inplace.

    bits, act_bits: of weights and of the layers' inputs, 1..8; act_bits is `bits` by default, and needed for bits=1.
    calibrate: sample inputs, from which the ranges of the layers' inputs are found. An iterable of batches (tensors; tuples or lists whose
        first item is the input, as a data loader gives them; dicts of keyword arguments), one tensor, or a function that is given the model
        and runs it. Without it, layers must get their ranges from a state dict, or be `dynamic`.
    skip: layers to leave in float: names (also of a module around them), types, functions of (name, module), or several of these.
    first_bits, last_bits: both widths of the first and of the last layer (in the order of the first calls, without `calibrate` in that of
        definition), 8 as is the custom; None: as all others.
    fold: put a BatchNorm2d behind a Conv2d into its weights, where torch.fx can trace the model, or the part of it that holds both.
    method, percentile: as for `ulp.nn.calibrate`. progress: a bar on terminals, where tqdm is installed.
    act_signed, act_asymmetric, dynamic, per_channel, weight_method, weight_range: as for `ulp.nn.Conv2d`.

    The result's `ulp_report` says which layers were converted and why others were left: other kinds of convolution, subclasses, layers with
    hooks, layers whose weights torch reads past their forward. A layer that is used in several places is converted once.
    Raises TypeError and ValueError for wrong arguments and for NaN or infinity in a calibration; the model is then as it was, but in eval
    mode. The result is for inference only.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is {type(model).__name__}: expected a torch.nn.Module")
    widths = _widths(bits, act_bits)
    first, last = (
        None if given is None else (bit_width(given, name),) * 2 for given, name in ((first_bits, "first_bits"), (last_bits, "last_bits"))
    )
    if dynamic and calibrate is not None:
        raise ValueError("dynamic=True with calibrate: either the ranges are those of each call, or those of the samples")
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(map(repr, METHODS))}")
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile={percentile!r}: expected a number above 50, up to 100")
    if not inplace:
        model = copy.deepcopy(model)
    model.eval()
    report = Report()
    targets = _choose(model, skip, report)
    _find_norms(model, targets, report, fold)
    observers = {} if calibrate is None else _observe(model, targets, calibrate, progress)
    order = [*observers, *(key for key in targets if key not in observers)]
    made: dict[int, Any] = {}
    for key in _bar(order, progress, "convert", "layer"):
        target = targets[key]
        w_bits, a_bits = (key == order[0] and first) or (key == order[-1] and last) or widths
        kind, adapter = (nn.Linear, Linear) if type(target.layer) is torch.nn.Linear else (nn.Conv2d, Conv2d)
        low: Any = kind.from_float(
            target.source(),
            bits=w_bits,
            act_bits=a_bits,
            act_signed=act_signed,
            act_asymmetric=act_asymmetric,
            dynamic=dynamic,
            per_channel=per_channel,
            weight_method=weight_method,
            weight_range=weight_range,
        )
        if key in observers and observers[key].seen:
            low.quantizer = observers[key].quantizer(a_bits, act_signed, act_asymmetric, method, percentile)
        made[key] = adapter(low)
        if target.norm is not None:
            made[id(target.norm)] = torch.nn.Identity()
        report.converted.append(Converted(target.name, kind.__name__, w_bits, a_bits, target.norm_name, made[key].calibrated))
    model = _replace(model, made)
    model.ulp_report = report
    return model


def _widths(bits: int, act_bits: int | None) -> tuple[int, int]:
    bits = bit_width(bits, "bits")
    if act_bits is not None:
        return bits, bit_width(act_bits, "act_bits")
    if bits == 1:
        raise TypeError(
            "convert: act_bits is needed where bits=1, as binary networks differ in it: pass act_bits=1, act_bits=2 or act_bits=8"
        )
    return bits, bits


def _choose(model: Any, skip: Skip | Iterable[Skip], report: Report) -> dict[int, _Target]:
    """The layers to convert by their id, in the order of definition."""
    skipped = _skip_rule(model, skip)
    own_readers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.TransformerEncoderLayer)]
    targets: dict[int, _Target] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, (_ConvNd, torch.nn.Linear, torch.nn.Bilinear, torch.nn.RNNBase)):
            continue
        if skipped(name, layer):
            report.left[name] = "as `skip` says"
        elif type(layer) not in (torch.nn.Conv2d, torch.nn.Linear):
            base = next((kind.__name__ for kind in (torch.nn.Conv2d, torch.nn.Linear) if isinstance(layer, kind)), None)
            report.left[name] = f"{type(layer).__name__} is " + (f"a subclass of {base}" if base else "not supported")
        elif layer._forward_hooks or layer._forward_pre_hooks:
            report.left[name] = "it has hooks"
        elif any(name.startswith(f"{reader}." if reader else "") for reader in own_readers):
            report.left[name] = "TransformerEncoderLayer reads the weights itself"
        else:
            targets[id(layer)] = _Target(name, layer)
    return targets


def _skip_rule(model: Any, skip: Skip | Iterable[Skip]) -> Callable[[str, Any], bool]:
    rules = [skip] if isinstance(skip, (str, type)) or callable(skip) else list(skip)
    names = [rule for rule in rules if isinstance(rule, str)]
    known = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for name in names:
        if name not in known:
            raise ValueError(f"skip: the model has no module {name!r}; it has {', '.join(filter(None, known)) or 'no modules'}")
    types = tuple(rule for rule in rules if isinstance(rule, type))
    functions: list[Any] = [rule for rule in rules if not isinstance(rule, (str, type))]
    for function in functions:
        if not callable(function):
            raise TypeError(f"skip: {function!r} is neither a name, nor a type, nor a function of (name, module)")
    return lambda name, layer: (
        any(name == start or name.startswith(f"{start}.") for start in names)
        or isinstance(layer, types)
        or any(function(name, layer) for function in functions)
    )


def _graphs(module: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(prefix of names, module, its graph) for the model or, where torch.fx cannot trace it, for the largest parts that it can."""
    try:
        graph = torch.fx.Tracer().trace(module)
    except Exception:  # the model's own code ran on proxies: anything may have come of it
        for name, child in module.named_children():
            yield from _graphs(child, f"{prefix}{name}.")
    else:
        yield prefix, module, graph


def _find_norms(model: Any, targets: dict[int, _Target], report: Report, fold: bool) -> None:
    """Note in each target the BatchNorm2d that alone reads its result, and in the report those that stay."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    norms = {id(module): name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    reasons = dict.fromkeys(norms, "torch.fx cannot trace what holds it" if fold else "fold=False")
    for prefix, part, graph in _graphs(model) if fold and norms else ():
        calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        for node in graph.nodes:
            if node.op != "call_module" or id(norm := part.get_submodule(node.target)) not in norms:
                continue
            reasons[id(norm)] = "no converted Conv2d comes right before it, for it alone"
            source = node.all_input_nodes[0]
            if source.op != "call_module" or len(source.users) > 1 or id(conv := part.get_submodule(source.target)) not in targets:
                continue
            if type(conv) is not torch.nn.Conv2d:
                continue
            if type(norm) is not torch.nn.BatchNorm2d or norm.running_mean is None or norm._forward_hooks or norm._forward_pre_hooks:
                reasons[id(norm)] = "it is a subclass, has hooks, or no statistics"
                continue
            if any(places[id(module)] > 1 or calls[n.target] > 1 for module, n in ((conv, source), (norm, node))):
                reasons[id(norm)] = "it or its Conv2d is used more than once"
                continue
            targets[id(conv)].norm, targets[id(conv)].norm_name = norm, prefix + node.target
            del reasons[id(norm)]
    report.left.update({norms[key]: reason for key, reason in reasons.items()})


def _observe(model: Any, targets: dict[int, _Target], calibrate: Any, progress: bool) -> dict[int, Observer]:
    """What the layers' inputs hold while the model runs, in the order of the layers' first calls."""
    observers: dict[int, Observer] = {}

    def observe(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        observers.setdefault(id(layer), Observer()).add(x.detach().cpu().float().contiguous().numpy())

    hooks = [target.layer.register_forward_pre_hook(observe, with_kwargs=True) for target in targets.values()]
    try:
        with torch.no_grad():
            if callable(calibrate):
                calibrate(model)
                return observers
            count = 0
            for batch in _bar([calibrate] if isinstance(calibrate, Tensor) else calibrate, progress, "calibrate", "batch"):
                count += 1
                if isinstance(batch, Mapping):
                    model(**batch)
                else:
                    model(batch[0] if isinstance(batch, (tuple, list)) else batch)
            if count == 0:
                raise ValueError("calibrate is empty: calibration needs at least one batch")
    finally:
        for hook in hooks:
            hook.remove()
    return observers


def _replace(model: Any, made: dict[int, Any]) -> Any:
    """The model with other modules in the places of those with these ids."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                setattr(parent, name, made[id(child)])
    return made.get(id(model), model)


def _bar(items: Iterable[Any], progress: bool, title: str, unit: str) -> Iterable[Any]:
    if not progress:
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    bar: Iterable[Any] = tqdm(items, desc=title, unit=unit, leave=False, disable=None, delay=1)
    return bar
