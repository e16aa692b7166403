"""`convert`: which layers of a model become low-bit layers, and how each is made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from ulp._progress import progress_bar
from ulp._validate import bit_width, layer_widths
from ulp.nn.linear import Dynamic, Linear
from ulp.nn.observer import METHODS, Observer
from ulp.nn.quantizer import WeightMethod, WeightRange

from . import quantized as quantized_layers
from . import recurrent
from .layers import adapter
from .norms import find_norms, graphs
from .quantized.found import LayerIntegers, Unfit
from .report import Converted, Report, has_weights
from .target import Target

Skip: TypeAlias = str | type | Callable[[str, Any], bool]

_LAYERS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)


def convert(
    model: Any,
    bits: int | str = 3,
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
    dynamic: Dynamic = False,
    per_channel: bool = True,
    weight_method: WeightMethod = "mse",
    weight_range: WeightRange = "full",
    progress: bool = True,
) -> Any:
    """A torch model with low-bit layers in place of its Conv1d, Conv2d, Linear, LSTM and GRU, in eval mode; `model` itself with inplace.

    bits, act_bits: of weights and of the layers' inputs, 1..8; act_bits is `bits` by default, and needed for bits=1.
        bits="W3A8" says both.
    calibrate: sample inputs, from which the ranges of the layers' inputs are found. An iterable of batches (tensors; tuples or lists whose
        first item is the input, as a data loader gives them; dicts of keyword arguments), one tensor, or a function that is given the model
        and runs it. Without it, layers must get their ranges from a state dict, or be `dynamic`.
    skip: layers to leave in float: names (also of a module around them), types, functions of (name, module), or several of these.
    first_bits, last_bits: both widths of the first and of the last layer (in the order of the first calls, without `calibrate` in that of
        definition), 8 as is the custom; None: as all others.
    fold: put a BatchNorm behind a convolution into its weights, where torch.fx can trace the model, or the part of it that holds both.
    method, percentile: as for `ulp.nn.calibrate`. progress: a bar on terminals, where tqdm is installed.
    act_signed, act_asymmetric, dynamic, per_channel, weight_method, weight_range: as for `ulp.nn.Conv2d`. With dynamic="row" each row of
        a Linear's input (each word of a sequence) has a range of its own, as in `ulp.nn.Linear`; convolutions have that of the call.

    Layers that are quantized already keep their integers, scales and bit widths, and need no calibration; in a model that holds some,
    layers of floats are converted only with `calibrate` or `dynamic`:
    - Brevitas: QuantConv2d and QuantLinear whose input is quantized, by themselves or by an activation that torch.fx finds in front of
      them. Sums are exact, so results differ from Brevitas' by the rounding of its float32 sums.
    - torch.ao.nn.quantized: Conv2d and Linear, with ReLU too, from eager or FX graph mode, take and give quantized tensors as before.
      Results equal torch's unless a value lies within float32 rounding of the middle between two codes. The dynamic Linear as well.
    - pt2e: the convolutions and products of an exported, quantized graph whose input and weights are dequantized; exact sums, as above.
    - torch.ao.nn.quantized.dynamic: LSTM and GRU, with activations of 8 bits (torch.ao's have 7 on CPUs without VNNI).
    - torchao: Linear with weights of 1 to 8 bits (Int8Tensor, IntxUnpackedToInt8Tensor), per channel or group; activations of dynamic int8,
      or floats, whose sums are then exact to 23 bits below the largest of their row.

    LSTM and GRU get `bits` and `act_bits`, and a scale of each step in the call, as `ulp.nn.LSTM` with dynamic=True; no calibration.

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
    if not isinstance(dynamic, (bool, np.bool_)) and dynamic != "row":
        raise (ValueError if isinstance(dynamic, str) else TypeError)(f"dynamic={dynamic!r}: expected True, False or 'row'")
    if dynamic and calibrate is not None:
        raise ValueError(f"dynamic={dynamic!r} with calibrate: either the ranges are those of each call, or those of the samples")
    if dynamic == "row" and (act_signed is not None or act_asymmetric):
        raise ValueError("act_signed or act_asymmetric with dynamic='row': the range of each row says what its codes stand for")
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(map(repr, METHODS))}")
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile={percentile!r}: expected a number above 50, up to 100")
    if not inplace:
        model = copy.deepcopy(model)
    model.eval()
    report = Report()
    options = {"per_channel": per_channel, "weight_method": weight_method, "weight_range": weight_range}
    targets, made = _choose(model, skip, report, calibrate is not None or bool(dynamic), widths, options)
    find_norms(model, targets, report, fold)
    floats = {key: target for key, target in targets.items() if target.quantized is None}
    observers = {} if calibrate is None else _observe(model, floats, calibrate, progress)
    order = [*observers, *(key for key in floats if key not in observers)]
    for key in progress_bar([*order, *(key for key in targets if key not in floats)], progress, "convert", "layer"):
        target = targets[key]
        if target.quantized is None:
            w_bits, a_bits = (key == order[0] and first) or (key == order[-1] and last) or widths
            low = target.from_float(
                w_bits,
                act_bits=a_bits,
                act_signed=act_signed,
                act_asymmetric=act_asymmetric,
                dynamic=dynamic if target.kind is Linear else bool(dynamic),
                **options,
            )
            if key in observers and observers[key].seen:
                low.quantizer = observers[key].quantizer(a_bits, act_signed, act_asymmetric, method, percentile)
        else:
            low = target.from_quantized(target.quantized)
        module = adapter(low)
        made[key] = module if target.quantized is None else target.quantized.around(module)
        if target.norm is not None:
            made[id(target.norm)] = torch.nn.Identity()
        report.converted.append(Converted(target.name, target.kind.__name__, low.bits, low.act_bits, target.norm_name, module.calibrated))
    _convert_graphs(model, report)
    model = _replace(model, made)
    model.ulp_report = report
    return model


def _widths(bits: int | str, act_bits: int | None) -> tuple[int, int]:
    bits, act_bits = layer_widths(bits, act_bits)
    bits = bit_width(bits, "bits")
    if act_bits is not None:
        return bits, bit_width(act_bits, "act_bits")
    if bits == 1:
        raise TypeError(
            "convert: act_bits is needed where bits=1, as binary networks differ in it: pass act_bits=1, act_bits=2 or act_bits=8"
        )
    return bits, bits


def _choose(
    model: Any, skip: Skip | Iterable[Skip], report: Report, floats: bool, widths: tuple[int, int], options: dict[str, Any]
) -> tuple[dict[int, Target], dict[int, Any]]:
    """The layers to convert by their id, in the order of definition, and what takes the place of others.

    floats: whether layers of floats are converted in a model that holds quantized ones. widths, options: of recurrent layers.
    """
    skipped = _skip_rule(model, skip)
    libraries = {id(module): library for module in model.modules() if (library := quantized_layers.library(module)) is not None}
    read = _Reader(model, libraries)
    own_readers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.TransformerEncoderLayer)]
    has_integers = any(recurrent.is_quantized(module) for module in model.modules())
    targets: dict[int, Target] = {}
    made: dict[int, Any] = {}
    layers: list[str] = []
    for name, layer in model.named_modules():
        quantized = id(layer) in libraries
        known = (_ConvNd, torch.nn.Linear, torch.nn.Bilinear, torch.nn.RNNBase)
        if not quantized and not isinstance(layer, known) and not recurrent.is_recurrent(layer):
            # Weights of a part of a layer are the layer's.
            if has_weights(layer) and not any(name.startswith(f"{seen}." if seen else "") for seen in layers):
                report.left[name] = f"{type(layer).__name__} is not supported"
                layers.append(name)
            continue
        layers.append(name)
        if skipped(name, layer):
            report.left[name] = "as `skip` says"
        elif recurrent.is_recurrent(layer) and not layer._forward_hooks and not layer._forward_pre_hooks:
            try:
                low = recurrent.converted(layer, *widths, **options)
            except Unfit as reason:
                report.left[name] = str(reason)
                continue
            made[id(layer)] = low
            report.converted.append(Converted(name, type(layer).__name__, low.bits, low.act_bits, None, True))
        elif not quantized and type(layer) not in _LAYERS:
            base = next((kind.__name__ for kind in _LAYERS if isinstance(layer, kind)), None)
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
            if isinstance(found, LayerIntegers):
                targets[id(layer)] = Target(name, layer, found)
            else:
                made[id(layer)] = found
                report.converted.append(Converted(name, found.kind, found.bits, found.act_bits, None, True))
        elif (libraries or has_integers) and not floats:
            report.left[name] = "it is of floats among quantized layers: pass `calibrate` or dynamic=True to convert it, too"
        else:
            targets[id(layer)] = Target(name, layer)
    return targets, made


class _Reader:
    """Reads quantized layers of the model by their libraries."""

    def __init__(self, model: Any, libraries: dict[int, str]) -> None:
        self.libraries = libraries
        self.quants: dict[int, Any] = {}
        if "brevitas" in libraries.values():
            from .quantized import brevitas

            self.quants = brevitas.input_quants(graphs(model))

    def __call__(self, layer: Any) -> Any:
        """What `convert` needs of it: integers, or the module that takes its place. Unfit where it must stay."""
        library = self.libraries[id(layer)]
        if library == "brevitas":
            from .quantized import brevitas

            return brevitas.read(layer, self.quants.get(id(layer)))
        if library == "torch_ao":
            from .quantized import torch_ao

            return torch_ao.read(layer)
        from .quantized import torchao

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


def _observe(model: Any, targets: dict[int, Target], calibrate: Any, progress: bool) -> dict[int, Observer]:
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
            for batch in progress_bar([calibrate] if isinstance(calibrate, Tensor) else calibrate, progress, "calibrate", "batch"):
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
        from .quantized import pt2e

        for node, layer in pt2e.layers(part):
            name = f"{prefix}.{node.name}" if prefix else node.name
            if isinstance(layer, Unfit):
                report.left[name] = str(layer)
                continue
            pt2e.put(part, node, adapter(layer))
            report.converted.append(Converted(name, type(layer).__name__, layer.bits, layer.act_bits, None, True))
        part.recompile()


def _replace(model: Any, made: dict[int, Any]) -> Any:
    """The model with other modules in the places of those with these ids."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                setattr(parent, name, made[id(child)])
    return made.get(id(model), model)
