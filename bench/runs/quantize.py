"""Float models quantized after training: `python -m bench quantize`, which writes quantize.json.

Per model of bench.subjects.quantize_tasks: the float model in onnxruntime, `ulp.quantize` at one pair of widths throughout (with 8 bits in
the first and the last layer, its default), `bits="auto"` within budgets of milliseconds, and int8 of other tools in onnxruntime. Each with
its accuracy, its bytes and its time on one core, all alternating. `auto` judges by inputs that are neither among those of the calibration
nor among those of the accuracy. Where the CPU has VNNI, which makes all widths alike, a second group runs the kernels of AVX2.

Models of torch are timed beside `ulp.compile` at W4A4, too, with one input and with 64; the ResNet also beside itself written in ulp.nn.
At the end the limits that the results should keep are printed, and whether they do; the file has them as well. With each instruction set
stands how much time bits could save at all: what each layer takes at every pair of widths, and what a call takes besides.

Each group is written as soon as it is measured; `--resume` keeps those that the file has, and of a group that was ended what was quantized,
searched and judged (in build/quantize, for one state of ulp.quantize, its tasks and the core).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ulp
from bench import ROOT
from bench.peers import after_training
from bench.subjects import quantize_tasks
from bench.subjects.quantize_tasks import F32, Run, Task, session
from ulp import _core
from ulp.quantize import Bits, Budget, FloatNetwork, Quantized, auto, costs
from ulp.quantize.request import assignment_of
from ulp.quantize.search import PAIRS
from ulp.quantize.trial import Judge

from . import limits, machine, results
from .kept import Kept
from .timing import Contestant, measure, pinned

BITS = ("W8A8", "W6A6", "W4A8", "W4A4", "W3A3")
# Tasks whose models are modules of torch.
MODULES = ("resnet", "mobilenet", "keyword")
# Tasks that take minutes: at the CPU's own instruction set alone, unless others are named.
LARGE = ("ocr", "detector")
# Images of a batch that go through the steps together: `group` of ulp.compile.
GROUP = 16
# Pairs beside those that auto tries: the fastest that there are.
LOWEST = (Bits(1, 1), Bits(2, 1))
# Of auto: max_ms; None: the time is what is minimized.
BUDGETS: dict[str, str | None] = {"auto, half of W8A8's ms": "0.5 W8A8", "auto, W4A4's ms": "W4A4", "auto, W4A4's accuracy": None}


class _Bench:
    """One task: what is quantized once is used for all instruction sets."""

    def __init__(self, task: Task, rounds: int, *, resume: bool) -> None:
        self.task, self.rounds = task, rounds
        sources = [Path(quantize_tasks.__file__), Path(_core.__file__), *sorted((ROOT / "ulp").rglob("*.py"))]
        states = (task.model, *(batch.tobytes() for batch in task.calibrate), *(path.read_bytes() for path in sources))
        self.kept = Kept(ROOT / "build" / "quantize" / task.name, states, resume=resume)
        self.missing: dict[str, str] = {}
        self.peers: dict[str, tuple[Run, int]] = {"float in onnxruntime": (session(task.model), len(task.model))}
        for name, tool in after_training.found(after_training.NAMES).items():
            self._add_peer(name, tool)
        self.peer_scores = {name: self._score(name, run) for name, (run, _) in self.peers.items()}

    def _add_peer(self, name: str, tool: Callable[[bytes, list[F32]], bytes]) -> None:
        def make() -> tuple[bytes, dict[str, Any]]:
            try:
                return tool(self.task.model, self.task.calibrate), {}
            except Exception as error:  # a tool that cannot take this model is left out, and the file says why
                lines = str(error).strip().splitlines() or [""]
                return b"", {"cannot": f"{type(error).__name__}: {lines[0][:300]}"}

        made, info = self.kept.file(name, make)
        print(f"{self.task.name}: {name} in {info['seconds']:.0f} s", flush=True)
        if "cannot" in info:
            self.missing[name] = info["cannot"]
            print(f"{self.task.name}: {name} cannot: {self.missing[name]}")
        else:
            self.peers[name] = session(made), len(made)

    def _score(self, name: str, run: Run) -> float:
        return float(self.kept.value(f"{name} score", lambda: self.task.score(run)))

    @functools.cached_property
    def network(self) -> FloatNetwork:
        """The prepared float model."""
        begin = time.perf_counter()
        network = FloatNetwork(self.task.model, self.task.calibrate)
        self.kept.value("calibrate seconds", lambda: round(time.perf_counter() - begin, 1))
        return network

    @functools.cached_property
    def names(self) -> list[str]:
        """Of its layers."""
        return [str(name) for name in self.kept.value("layers", lambda: [layer.name for layer in self.network.layers])]

    def _uniform(self, text: str) -> tuple[Any, dict[str, Any]]:
        """The network with these bits, and what is known of it."""

        def make() -> tuple[bytes, dict[str, Any]]:
            self.network  # noqa: B018  # calibrated before the clock of this one begins
            return _serialized(self.network.quantized(assignment_of(text, self.names, 8)))

        self.names  # noqa: B018
        made, info = self.kept.file(text, make)
        loaded = _loaded(made, info)
        return loaded, {"accuracy": self._score(text, loaded), "quantize_s": info["seconds"]}  # the same on every instruction set

    def _auto(self, isa: str, name: str, limit: str | None, uniform: Run) -> tuple[Any, dict[str, Any]] | None:
        """What bits="auto" chooses within a budget; None where nothing keeps it, and the file says so."""
        label = f"{name}, {isa}"

        def make() -> tuple[bytes, dict[str, Any]]:
            select = self.task.select
            drop = None
            if limit is None:
                floats = self.kept.value("float select", lambda: select(self.peers["float in onnxruntime"][0]))
                drop = max(0.0, floats - select(uniform))
            try:
                chosen = auto(self.network, Budget(max_ms=limit, max_drop=drop), metric=select, example=self.task.example)
            except ValueError as error:
                return b"", {"cannot": str(error)}
            assert chosen.choice is not None
            made, info = _serialized(chosen)
            return made, info | {"bits": {layer: str(pair) for layer, pair in chosen.choice.chosen.assignment.items()}}

        made, info = self.kept.file(label, make)
        if "cannot" in info:
            self.missing[label] = info["cannot"]
            print(f"{self.task.name} {isa} {name}: {info['cannot']} ({info['seconds']:.0f} s)", flush=True)
            return None
        loaded = _loaded(made, info)
        return loaded, {"accuracy": self._score(label, loaded), "search_s": round(info["seconds"], 1), "bits": info["bits"]}

    def group(self, isa: str) -> results.Group:
        """All contestants at this instruction set."""
        ulp.set_isa(isa)
        task = self.task
        made: dict[str, tuple[Any, dict[str, Any]]] = {}
        for text in BITS:
            made[text] = self._uniform(text)
            print(f"{task.name} {isa} {text}: {made[text][1]['accuracy']:.2f} ({made[text][1]['quantize_s']:.0f} s)", flush=True)
        for name, limit in BUDGETS.items():
            found = self._auto(isa, name, limit, made["W4A4"][0])
            if found is not None:
                made[name] = found
                print(f"{task.name} {isa} {name}: {found[1]['accuracy']:.2f} in {found[1]['search_s']:.0f} s", flush=True)
        contestants = []
        for name, (run, size) in self.peers.items():
            kind = "fp32" if name.startswith("float") else "int8"
            info = {"accuracy": self.peer_scores[name], "metric": task.metric}
            contestants.append(Contestant(name, kind, functools.partial(run, task.example), 0, size, info=info))
        for name, (loaded, info) in made.items():
            pair = None if name not in BITS else (int(name[3]), int(name[1]))
            call = functools.partial(loaded, task.example)
            contestants.append(Contestant(name, "ulp", call, 0, loaded.nbytes, pair, info={**info, "metric": task.metric}))
        samples = measure(contestants, rounds=self.rounds)
        group = results.group(f"{task.name}, {isa}", (len(task.example), 0, 0), contestants, samples)
        bits = self.kept.value(f"bits, {isa}", self.bits_ms)
        seconds = self.kept.value("calibrate seconds", lambda: None)
        group.cells[0].info.update({"cannot": dict(self.missing), "calibrate_s": seconds, "bits": bits})
        for cell in group.cells:
            print(f"{group.name:24} {cell.name:26} {cell.time.median / 1e6:9.4f} ms  {cell.info['accuracy']:7.2f}", flush=True)
        return group

    def bits_ms(self) -> dict[str, Any]:
        """Milliseconds of each layer at each pair of widths, and of a call besides; the least that bits can make of the whole."""
        judge, pairs = Judge(self.network, None, self.task.example), (*PAIRS, *LOWEST)
        how = functools.partial(self.network.quantized, rounding="nearest", bias_correction=False)
        ms, rest = costs.measured(self.network, judge, pairs, how, progress=False)
        uniform = assignment_of("W4A4", self.names, 8)
        now = rest + sum(ms[name, bits] for name, bits in uniform.items() if bits)
        least = rest + sum(min(ms[name, pair] for pair in pairs) for name in self.names)
        layers = {name: {str(pair): round(ms[name, pair], 6) for pair in pairs} for name in self.names}
        return {"layers_ms": layers, "besides_ms": round(rest, 6), "W4A4_ms": round(now, 6), "least_ms": round(least, 6)}


def _serialized(quantized: Quantized) -> tuple[bytes, dict[str, Any]]:
    return bytes(quantized.model.SerializeToString()), {"shapes": {name: list(shape) for name, shape in quantized.shapes.items()}}


def _loaded(made: bytes, info: dict[str, Any]) -> Any:
    return ulp.load(made, shapes=info["shapes"] or None, progress=False)


def compiled_group(task: Task, isa: str, count: int, rounds: int) -> results.Group:
    """A model of torch in floats and by `ulp.compile` at W4A4, with `count` inputs; the ResNet in ulp.nn, too."""
    import torch

    from bench.subjects import written_networks

    torch.set_num_threads(1)
    ulp.set_isa(isa)
    calibrate = np.concatenate(task.calibrate)
    x = torch.from_numpy(calibrate[:count])
    group = min(count, GROUP)
    network = ulp.compile(task.module, x, bits="W4A4", calibrate=calibrate, group=group, progress=False)
    module = torch.inference_mode()(task.module)
    info = {"metric": task.metric, "accuracy": task.score(network)}
    floats = info | {"accuracy": task.score(session(task.model))}
    contestants = [
        Contestant("float in torch", "fp32", functools.partial(module, x), 0, len(task.model), info=floats),
        Contestant("W4A4 by ulp.compile", "ulp", functools.partial(network, x), 0, network.nbytes, (4, 4), info=info),
    ]
    if task.name == "resnet":
        written = written_networks.resnet(4, calibrate[:count], group)
        # Arrays in, as a network of ulp.nn takes them; and by ulp.compile likewise. The weights in ulp.nn are random.
        contestants += [
            Contestant(name, "ulp", functools.partial(run, calibrate[:count]), 0, run.nbytes, (4, 4), info=given)
            for name, run, given in (("W4A4 by ulp.compile, arrays", network, info), ("W4A4 in ulp.nn", written, {}))
        ]
    return results.group(f"{task.name}, {isa}, batch {count}", (count, 0, 0), contestants, measure(contestants, rounds=rounds))


def _isas(wanted: list[str] | None) -> list[str]:
    """The CPU's own, and AVX2 where that has other ratios between widths."""
    own = ulp.get_isa()
    return wanted or ([own] if own in ("avx2", "baseline") or "avx2" not in ulp.available_isas() else [own, "avx2"])


def main(arguments: list[str]) -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench quantize", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=tuple(quantize_tasks.TASKS), default=list(quantize_tasks.TASKS))
    parser.add_argument("--isa", nargs="+", help="instruction sets of ulp's kernels (default: the CPU's; of small models avx2, too)")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--resume", action="store_true", help="keep the groups that the file has")
    parser.add_argument("--out", type=Path, default=results.DIRECTORY, help="the directory of quantize.json")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # what exporters and quantizers of others say
    path = args.out / "quantize.json"
    groups = {group.name: group for group in results.load(path).groups} if args.resume and path.exists() else {}
    ulp.set_num_threads(1)
    isas = _isas(args.isa)

    def save() -> None:
        order = list(quantize_tasks.TASKS)
        ordered = sorted(groups.values(), key=lambda group: (order.index(group.name.split(",")[0]), ", batch" in group.name))
        rows = [row for group in ordered for row in limits.kept(group)]
        environment = machine.describe(arguments) | {"command": " ".join(["python -m bench quantize", *arguments])}
        settings = {"rounds": args.rounds, "threads": 1, "limits": rows}
        results.save(results.Result("quantize", environment, settings, None, {}, ordered), args.out)

    for name in args.tasks:
        batches = (1, 64) if name in MODULES else ()
        wanted = isas[:1] if name in LARGE and not args.isa else isas
        todo = [isa for isa in wanted if any(f"{name}, {isa}{more}" not in groups for more in ("", *(f", batch {n}" for n in batches)))]
        if not todo:
            continue
        try:
            task = quantize_tasks.TASKS[name]()
        except (ImportError, RuntimeError) as error:
            print(f"{name} is left out: {error}")
            continue
        with pinned(args.core), contextlib.ExitStack() as after:
            after.callback(ulp.set_isa, ulp.get_isa())
            bench: _Bench | None = None
            for isa in todo:
                for count in batches:
                    if f"{name}, {isa}, batch {count}" not in groups:
                        group = compiled_group(task, isa, count, args.rounds)
                        groups[group.name] = group
                if f"{name}, {isa}" not in groups:
                    bench = bench or _Bench(task, args.rounds, resume=args.resume)
                    group = bench.group(isa)
                    groups[group.name] = group
                save()
    for group in groups.values():
        for row in limits.kept(group):
            print("  ".join(row))
    return 0
