"""Low-bit layers inside a live torch model: `convert` puts them in place of its Conv2d and Linear. Float in, float out, for inference.

    low = ulp.torch.convert(model, bits=3, calibrate=batches)
    with torch.inference_mode():
        y = low(x)

The converted layers are torch modules that hold plain buffers: weights in `bits` bits each, scales, the input's quantizer. So `state_dict`,
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

import numpy as np

try:
    import torch
    from torch import Tensor
    from torch.nn.modules.conv import _ConvNd
except ImportError as missing:
    raise ImportError('ulp.torch needs torch 2.6 or newer: pip install torch, or pip install "ulp[torch]"') from missing

from . import _quantized, nn
from ._quantized.layers import Quantized, Unfit
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
    """A layer of the model that is to be converted, and the batch normalisation that becomes part of it.

    quantized: the layer's integers, where it is one of Brevitas.
    """

    name: str
    layer: Any
    quantized: Quantized | None = None
    norm_name: str | None = None
    norm: Any = None

    @property
    def kind(self) -> Any:
        """The class of `ulp.nn` that it becomes."""
        return nn.Linear if isinstance(self.layer, torch.nn.Linear) else nn.Conv2d

    def from_float(self, bits: int, **options: Any) -> Any:
        """The layer with its weights quantized."""
        layer = self.layer
        names = ("in_features", "out_features") if self.kind is nn.Linear else _CONV_ATTRIBUTES
        weight = layer.weight.detach().cpu().double()
        bias = None if layer.bias is None else layer.bias.detach().cpu().double()
        if self.norm is not None:
            scale, shift = self._norm_terms()
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = (0 if bias is None else bias) * scale + shift
        arrays = {"weight": weight.float().numpy(), "bias": None if bias is None else bias.float().numpy()}
        source = SimpleNamespace(**{name: getattr(layer, name) for name in names}, **arrays)
        return self.kind.from_float(source, bits=bits, **options)

    def from_quantized(self, own: Quantized) -> Any:
        """The layer of its own integers, which a batch normalisation leaves as they are."""
        scale, bias = own.scale, own.bias
        if self.norm is not None:
            factor, shift = (term.numpy() for term in self._norm_terms())
            scale, bias = (scale * factor).astype(np.float32), ((0 if bias is None else bias) * factor + shift).astype(np.float32)
        q = own.quantizer
        names = () if self.kind is nn.Linear else _CONV_ATTRIBUTES[3:]
        options = {name: getattr(self.layer, name) for name in names}
        return self.kind.from_quantized(own.integers, scale, bias, q.scale, q.zero, bits=own.bits, act_bits=q.bits, **options)

    def _norm_terms(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) of the batch normalisation, float64."""
        norm = self.norm
        scale = (norm.running_var.cpu().double() + norm.eps).rsqrt() * (norm.weight.detach().cpu().double() if norm.affine else 1)
        return scale, (norm.bias.detach().cpu().double() if norm.affine else 0) - norm.running_mean.cpu().double() * scale


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

    Layers that are quantized already keep their integers, scales and bit widths, and need no calibration; in a model that holds some,
    layers of floats are converted only with `calibrate` or `dynamic`:
    - Brevitas: QuantConv2d and QuantLinear whose input is quantized, by themselves or by an activation that torch.fx finds in front of
      them. Sums are exact, so results differ from Brevitas' by the rounding of its float32 sums.
    - torch.ao.nn.quantized: Conv2d and Linear, with ReLU too, from eager or FX graph mode, take and give quantized tensors as before.
      Results equal torch's but where a value lies within float32 rounding of the middle between two codes. The dynamic Linear, too.
    - pt2e: the convolutions and products of an exported, quantized graph whose input and weights are dequantized; exact sums, as above.
    - torchao: Linear with weights of 1 to 8 bits (Int8Tensor, IntxUnpackedToInt8Tensor), per channel or group; activations of dynamic int8,
      or floats, whose sums are then exact to 23 bits below the largest of their row.

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
    targets, made = _choose(model, skip, report, calibrate is not None or dynamic)
    _find_norms(model, targets, report, fold)
    floats = {key: target for key, target in targets.items() if target.quantized is None}
    observers = {} if calibrate is None else _observe(model, floats, calibrate, progress)
    order = [*observers, *(key for key in floats if key not in observers)]
    for key in _bar([*order, *(key for key in targets if key not in floats)], progress, "convert", "layer"):
        target = targets[key]
        if target.quantized is None:
            w_bits, a_bits = (key == order[0] and first) or (key == order[-1] and last) or widths
            low = target.from_float(
                w_bits,
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
        else:
            low = target.from_quantized(target.quantized)
        adapter = (Linear if target.kind is nn.Linear else Conv2d)(low)
        made[key] = adapter if target.quantized is None else target.quantized.around(adapter)
        if target.norm is not None:
            made[id(target.norm)] = torch.nn.Identity()
        report.converted.append(Converted(target.name, target.kind.__name__, low.bits, low.act_bits, target.norm_name, adapter.calibrated))
    _convert_graphs(model, report)
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


def _choose(model: Any, skip: Skip | Iterable[Skip], report: Report, floats: bool) -> tuple[dict[int, _Target], dict[int, Any]]:
    """The layers to convert by their id, in the order of definition, and what takes the place of others.

    floats: whether layers of floats are converted in a model that holds quantized ones.
    """
    skipped = _skip_rule(model, skip)
    libraries = {id(module): library for module in model.modules() if (library := _quantized.library(module)) is not None}
    read = _Reader(model, libraries)
    own_readers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.TransformerEncoderLayer)]
    targets: dict[int, _Target] = {}
    made: dict[int, Any] = {}
    for name, layer in model.named_modules():
        quantized = id(layer) in libraries
        if not quantized and not isinstance(layer, (_ConvNd, torch.nn.Linear, torch.nn.Bilinear, torch.nn.RNNBase)):
            continue
        if skipped(name, layer):
            report.left[name] = "as `skip` says"
        elif not quantized and type(layer) not in (torch.nn.Conv2d, torch.nn.Linear):
            base = next((kind.__name__ for kind in (torch.nn.Conv2d, torch.nn.Linear) if isinstance(layer, kind)), None)
            report.left[name] = f"{type(layer).__name__} is " + (f"a subclass of {base}" if base else "not supported")
        elif layer._forward_hooks or layer._forward_pre_hooks:
            report.left[name] = "it has hooks"
        elif any(name.startswith(f"{reader}." if reader else "") for reader in own_readers):
            report.left[name] = "TransformerEncoderLayer reads the weights itself"
        elif quantized:
            try:
                found = read(layer)
            except Unfit as reason:
                report.left[name] = str(reason)
                continue
            if isinstance(found, Quantized):
                targets[id(layer)] = _Target(name, layer, found)
            else:
                made[id(layer)] = found
                report.converted.append(Converted(name, found.kind, found.bits, found.act_bits, None, True))
        elif libraries and not floats:
            report.left[name] = "it is of floats among quantized layers: pass `calibrate` or dynamic=True to convert it, too"
        else:
            targets[id(layer)] = _Target(name, layer)
    return targets, made


class _Reader:
    """Reads quantized layers of the model by their libraries."""

    def __init__(self, model: Any, libraries: dict[int, str]) -> None:
        self.libraries = libraries
        self.quants: dict[int, Any] = {}
        if "brevitas" in libraries.values():
            from ._quantized import brevitas

            self.quants = brevitas.input_quants(_graphs(model))

    def __call__(self, layer: Any) -> Any:
        """What `convert` needs of it: integers, or the module that takes its place. Unfit where it must stay."""
        library = self.libraries[id(layer)]
        if library == "brevitas":
            from ._quantized import brevitas

            return brevitas.read(layer, self.quants.get(id(layer)))
        if library == "torch_ao":
            from ._quantized import torch_ao

            return torch_ao.read(layer)
        from ._quantized import torchao

        return torchao.read(layer)


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


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        return _quantized.is_leaf(m) or bool(super().is_leaf_module(m, module_qualified_name))


def _graphs(module: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(prefix of names, module, its graph) for the model or, where torch.fx cannot trace it, for the largest parts that it can."""
    try:
        graph = _Tracer().trace(module)
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
            target = targets[id(conv)]
            if target.kind is not nn.Conv2d:
                continue
            if target.quantized is not None and target.quantized.after is not None:
                reasons[id(norm)] = "its Conv2d quantizes its result"
                continue
            if type(norm) is not torch.nn.BatchNorm2d or norm.running_mean is None or norm._forward_hooks or norm._forward_pre_hooks:
                reasons[id(norm)] = "it is a subclass, has hooks, or no statistics"
                continue
            if any(places[id(module)] > 1 or calls[n.target] > 1 for module, n in ((conv, source), (norm, node))):
                reasons[id(norm)] = "it or its Conv2d is used more than once"
                continue
            target.norm, target.norm_name = norm, prefix + node.target
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


def _convert_graphs(model: Any, report: Report) -> None:
    """Put layers into the graphs that torch.export and pt2e made."""
    for prefix, part in list(model.named_modules()):
        if not isinstance(part, torch.fx.GraphModule):
            continue
        from ._quantized import pt2e

        for node, layer in pt2e.layers(part):
            name = f"{prefix}.{node.name}" if prefix else node.name
            if isinstance(layer, Unfit):
                report.left[name] = str(layer)
                continue
            pt2e.put(part, node, (Linear if isinstance(layer, nn.Linear) else Conv2d)(layer))
            report.converted.append(Converted(name, type(layer).__name__, layer.bits, layer.act_bits, None, True))
        part.recompile()


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
