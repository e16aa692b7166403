"""Which batch normalisations become part of a convolution: those that torch.fx sees right behind one, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from ulp import nn

from . import quantized
from .report import Report
from .target import Target

_NORMS: dict[type, Any] = {nn.Conv1d: torch.nn.BatchNorm1d, nn.Conv2d: torch.nn.BatchNorm2d}


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        return quantized.is_leaf(m) or bool(super().is_leaf_module(m, module_qualified_name))


def graphs(module: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(prefix of names, module, its graph) for the model or, where torch.fx cannot trace it, for the largest parts that it can."""
    try:
        graph = _Tracer().trace(module)
    except Exception:  # the model's own code ran on proxies: anything may have come of it
        for name, child in module.named_children():
            yield from graphs(child, f"{prefix}{name}.")
    else:
        yield prefix, module, graph


def find_norms(model: Any, targets: dict[int, Target], report: Report, fold: bool) -> None:
    """Note in each target the BatchNorm that alone reads its result, and in the report those that stay."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    kinds = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    norms = {id(module): name for name, module in model.named_modules() if isinstance(module, kinds)}
    # A BatchNorm1d is mostly behind a Linear, of which it becomes no part.
    flat = {id(module) for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)}
    reasons = dict.fromkeys(norms.keys() - flat, "torch.fx cannot trace what holds it" if fold else "fold=False")
    for prefix, part, graph in graphs(model) if fold and norms else ():
        calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        for node in graph.nodes:
            if node.op != "call_module" or id(norm := part.get_submodule(node.target)) not in norms:
                continue
            if id(norm) not in flat:
                reasons[id(norm)] = "no converted Conv2d comes right before it, for it alone"
            source = node.all_input_nodes[0]
            if source.op != "call_module" or len(source.users) > 1 or id(conv := part.get_submodule(source.target)) not in targets:
                continue
            target = targets[id(conv)]
            wanted = _NORMS.get(target.kind)
            if wanted is None or not isinstance(norm, wanted):
                continue
            if target.quantized is not None and target.quantized.after is not None:
                reasons[id(norm)] = f"its {target.kind.__name__} quantizes its result"
                continue
            if type(norm) is not wanted or norm.running_mean is None or norm._forward_hooks or norm._forward_pre_hooks:
                reasons[id(norm)] = "it is a subclass, has hooks, or no statistics"
                continue
            if any(places[id(module)] > 1 or calls[n.target] > 1 for module, n in ((conv, source), (norm, node))):
                reasons[id(norm)] = f"it or its {target.kind.__name__} is used more than once"
                continue
            target.norm, target.norm_name = norm, prefix + node.target
            reasons.pop(id(norm), None)
    report.left.update({norms[key]: reason for key, reason in reasons.items()})
