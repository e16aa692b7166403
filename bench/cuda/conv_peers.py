"""The libraries beside `ulp` for convolutions on a GPU: torch's fp16 and bf16 in channels_last (cuDNN), and int8 by cuDNN's frontend.

Each convolves, adds no bias, and has its ReLU. The int8 peer multiplies values of 4 bits, which draw less power than full-range int8 would,
in its favour, and gives int8; its result is checked against exact sums.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from . import work
from .device import Call, fastest, torch
from .measure import Bench

if TYPE_CHECKING:
    from .conv import Layer

MAX_SLOTS = 8  # copies of a layer that take turns, so that neither weights nor images of the last call are in the cache
FLOATS = ("float16", "bfloat16")
CUDNN = "cuDNN int8"
MAX_PLANS = 12  # of cuDNN's, that are tried
NEEDS_CHANNELS = 4  # cuDNN's int8 kernels take channels in fours


def slots(bench: Bench, nbytes: int) -> int:
    """Copies of a layer's buffers."""
    return min(MAX_SLOTS, work.slots(nbytes, bench.gpu.l2_bytes, bench.gpu.memory_bytes))


def least_ns(bench: Bench, layer: Layer, images: int, pair: tuple[int, int]) -> float:
    """A guess of a call's time from below, by the tensor cores."""
    return work.tensor_ns(work.Work(images * layer.out**2, layer.outputs, layer.k, *pair), bench.gpu)


def floats(bench: Bench, layer: Layer, images: int, dtype: str) -> Call:
    """torch's convolution in channels_last, cuDNN's fastest algorithm."""
    t = torch()
    t.backends.cudnn.benchmark = True
    nbytes = layer.nbytes(images, 16, 2)
    copies = slots(bench, nbytes)
    form = {"dtype": getattr(t, dtype), "memory_format": t.channels_last}
    shape = (layer.outputs, layer.channels, layer.kernel, layer.kernel)
    weights = [t.randn(shape, device="cuda").to(**form) for _ in range(copies)]
    x = [t.randn((images, layer.channels, layer.size, layer.size), device="cuda").to(**form) for _ in range(copies)]

    def convolve(slot: int) -> Any:
        return t.nn.functional.conv2d(x[slot], weights[slot], None, layer.stride, layer.kernel // 2)

    outs = [convolve(slot) for slot in range(copies)]

    def run(slot: int) -> None:
        t.relu_(convolve(slot))

    kind = {"float16": "fp16", "bfloat16": "bf16"}[dtype]
    return Call(f"torch {kind}", kind, run, outs, layer.macs(images), nbytes, least_ns(bench, layer, images, (8, 8)))


def why_no_cudnn() -> str | None:
    """None, or why there is no frontend of cuDNN."""
    return None if importlib.util.find_spec("cudnn") else "not installed: pip install nvidia-cudnn-frontend"


def cudnn_int8(bench: Bench, layer: Layer, images: int) -> Call:
    """int8 by int8 to int8 with scale and ReLU fused; the fastest of cuDNN's plans. RuntimeError where it has none."""
    if reason := why_no_cudnn():
        raise RuntimeError(reason)
    if layer.channels % NEEDS_CHANNELS:
        raise RuntimeError(f"{layer.channels} channels: its int8 kernels take multiples of {NEEDS_CHANNELS}")
    cudnn, t = importlib.import_module("cudnn"), torch()
    nbytes = layer.nbytes(images, 8)
    copies = slots(bench, nbytes)
    form = {"dtype": t.int8, "memory_format": t.channels_last}
    shapes = ((images, layer.channels, layer.size, layer.size), (layer.outputs, layer.channels, layer.kernel, layer.kernel))
    x, w = (t.randint(-8, 8, shape, device="cuda").to(**form) for shape in shapes)
    xs, ws = [x.clone() for _ in range(copies)], [w.clone() for _ in range(copies)]
    scale = 1.0 / layer.k**0.5
    scales = t.full((1, 1, 1, 1), scale, dtype=t.float32, device="cuda")
    outs = [t.empty((images, layer.outputs, layer.out, layer.out), dtype=t.int8, device="cuda", memory_format=t.channels_last) for _ in xs]
    expected = _expected(t, x[:1], w, layer, scale)

    def right(out: Any) -> bool:  # how it rounds halves is its own affair
        return int((out[:1].int() - expected).abs().max()) <= 1

    handle = cudnn.create_handle()
    graph, tensors = _graph(cudnn, handle, layer, (x, w, scales, outs[0]))
    sizes = [graph.get_workspace_size_plan_at_index(i) for i in range(min(MAX_PLANS, graph.get_execution_plan_count()))]
    if not sizes:
        raise RuntimeError("cuDNN has no plan for this")
    space = t.empty(max(1, *sizes), dtype=t.uint8, device="cuda")

    def run(slot: int, plan: int) -> None:
        cudnn.set_stream(handle=handle, stream=t.cuda.current_stream().cuda_stream)
        pack = dict(zip(tensors, (xs[slot], ws[slot], scales, outs[slot]), strict=True))
        graph.execute_plan_at_index(pack, space, plan, handle)

    call = functools.partial(
        Call, CUDNN, "int8", outs=outs, macs=layer.macs(images), nbytes=nbytes, least_ns=least_ns(bench, layer, images, (8, 8)), right=right
    )
    return fastest([call(run=functools.partial(run, plan=plan), info={"variant": plan}) for plan in range(len(sizes))])


def _expected(t: Any, x: Any, w: Any, layer: Layer, scale: float) -> Any:
    """Codes of the first image: sums of 4-bit values are exact in float32 without TF32."""
    before, t.backends.cudnn.allow_tf32 = t.backends.cudnn.allow_tf32, False
    try:
        sums = t.nn.functional.conv2d(x.float(), w.float(), None, layer.stride, layer.kernel // 2)
    finally:
        t.backends.cudnn.allow_tf32 = before
    return (sums * scale).round().clamp(0, 127).int()


def _graph(cudnn: Any, handle: Any, layer: Layer, arrays: tuple[Any, Any, Any, Any]) -> tuple[Any, list[Any]]:
    """The graph with all of its plans built, and its tensors: images, weights, scale, result."""
    types = cudnn.data_type
    graph = cudnn.pygraph(
        handle=handle, io_data_type=types.INT8, intermediate_data_type=types.FLOAT, compute_data_type=types.INT32, name="convolution"
    )
    of = [types.INT8, types.INT8, types.FLOAT]
    inputs = [
        graph.tensor(name=name, dim=list(array.shape), stride=list(array.stride()), data_type=kind)
        for name, array, kind in zip(("image", "weight", "scale"), arrays, of, strict=False)
    ]
    pad, stride = [layer.kernel // 2] * 2, [layer.stride] * 2
    sums = graph.conv_fprop(image=inputs[0], weight=inputs[1], padding=pad, stride=stride, dilation=[1, 1], compute_data_type=types.INT32)
    sums.set_data_type(types.INT32)
    scaled = graph.mul(a=sums, b=inputs[2], compute_data_type=types.FLOAT)
    result = graph.relu(input=scaled, compute_data_type=types.FLOAT)
    result.set_output(True).set_data_type(types.INT8).set_dim(list(arrays[3].shape)).set_stride(list(arrays[3].stride()))
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans(cudnn.build_plan_policy.ALL)
    return graph, [*inputs, result]
