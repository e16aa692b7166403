"""Typed view of the native core. `ulp` wraps it; nothing here is public.

Arrays that cross this border are numpy uint8 (unsigned codes) or int8 (two's complement, or -1/+1 at 1 bit); every other dtype is
brought to one of the two by `ulp._validate` first. Strides are free.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from typing_extensions import NotRequired

class OutOfRange(ValueError):  # noqa: N818  # the name of the native class, which users meet as ValueError
    """A value of `a` or `b` lies outside its interval. Carries no index: the Python layer finds the first one and words the error."""

class Packed:
    """Weights at `bits` bits each, in the order every kernel expands from (csrc/pack/layout.h)."""

    @property
    def k(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def bits(self) -> int: ...
    @property
    def signed(self) -> bool: ...
    @property
    def nbytes(self) -> int:
        """Bytes of the data, without the column sums."""
    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """The packed bytes, shape (nbytes,), a read-only view that keeps this object alive."""
    @property
    def column_sums(self) -> npt.NDArray[np.int32]:
        """Sum over k of the stored values modulo 2^32, shape (n,), a copy. That is how the epilogue uses them."""

def pack(b: npt.NDArray[Any], bits: int) -> Packed:
    """b: (k, n) uint8 or int8. Raises OutOfRange."""

def unpack(packed: Packed) -> npt.NDArray[Any]:
    """(k, n) in the dtype given to `pack`."""

def packed_nbytes(k: int, n: int, bits: int) -> int:
    """Bytes that `Packed.data` takes; raises ValueError where k, n or bits are impossible."""

def from_data(data: npt.NDArray[np.uint8], k: int, n: int, bits: int, signed: bool) -> Packed:
    """Rebuild from `Packed.data`. ValueError unless len(data) == packed_nbytes(k, n, bits).

    Padding is rewritten and sums are recomputed: any bytes are safe.
    """

class Grouped:
    """Weights in groups of `group` k (csrc/gemm/grouped.h), each padded to a multiple of 32 in `weights`, unsigned codes.

    scales, zeros: float32 (groups, n). zero: of all weights where zeros is None. table: int32 (2^bits,), what codes of 2 to 4 bits stand
    for. ValueError for what does not fit.
    """

    def __init__(
        self,
        weights: Packed,
        *,
        k: int,
        group: int,
        scales: npt.NDArray[np.float32],
        zeros: npt.NDArray[np.float32] | None,
        zero: int,
        table: npt.NDArray[np.int32] | None,
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def product(
        self, a: npt.NDArray[np.uint8], *, centre: int, scales: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        """a (M, k), less a centre of 0 (below 128) or 128; scales (M,) or (M, groups)."""

    def linear(self, x: npt.NDArray[np.float32], *, bias: npt.NDArray[np.float32] | None, per_group: bool) -> npt.NDArray[np.float32]:
        """x (M, k), quantized per row or per group of a row. ValueError where it is not finite."""

def grouped_kernel() -> str:
    """Name of the kernel that Grouped runs now."""

class Unfit(ValueError):  # noqa: N818  # the name of the native class
    """a and b differ in K, or `out` is not what the core writes to. The Python layer says why, or has the result copied into `out`."""

class Epilogue(TypedDict):
    """What follows the sum. The fields of a quantized result, out_bits, out_signed and out_zero, are all there or none of them.

    scale: a float, or float32 of shape (), (1,) or (n,); finite in float32.
    bias: None, int32 (n,) added to the sum before scaling, or (only without out_bits) float32 (n,) added after.
    Without out_bits: float32 (m, n) = float(acc + bias) * scale, or float(acc) * scale + bias; relu clamps at 0.
    out_bits 1..8: uint8 (int8 with out_signed) (m, n) = clamp(rint(float(acc + bias) * scale) + out_zero), half to even;
    relu clamps below at out_zero. The interval is 0..2^b-1, or -2^(b-1)..2^(b-1)-1 with out_signed (b >= 2).
    """

    scale: float | npt.NDArray[np.float32]
    bias: npt.NDArray[np.int32] | npt.NDArray[np.float32] | None
    relu: bool
    out_bits: NotRequired[int]
    out_signed: NotRequired[bool]
    out_zero: NotRequired[int]

def gemm(
    a: npt.NDArray[Any],
    packed: Packed,
    a_bits: int,
    a_zero: int,
    b_zero: int | npt.NDArray[np.int32],
    kernel: str | None,
    out: npt.NDArray[Any] | None,
) -> npt.NDArray[np.int32]:
    """sum_k (a - a_zero) * (b - b_zero): a (m, k) uint8 or int8 -> (m, n) int32.

    `out`: (m, n) int32, writable, aligned, last axis contiguous, rows that do not overlap; returned when given. It may overlap any input.
    Raises OutOfRange (a), Unfit, ValueError (shapes, overflow bound, unknown or unfit kernel). Releases the GIL.
    """

def quick_gemm(
    a: object,
    packed: Packed,
    bits: object,
    a_zero: object,
    b_zero: object,
    kernel: object,
    out: object,
    scale: object,
    bias: object,
    out_bits: object,
    out_zero: object,
    out_signed: object,
    relu: object,
    /,
) -> npt.NDArray[Any] | None:
    """The result of `ulp.gemm` where all arguments are plain: a of one or two dimensions, numpy's uint8 or int8; numbers of Python's own
    types; scale and bias arrays of numpy's float32 and int32. None for any other call, and for one that fails: nothing is raised but what
    a signal handler raises.
    """

def gemm_fused(
    a: npt.NDArray[Any],
    packed: Packed,
    a_bits: int,
    a_zero: int,
    b_zero: int | npt.NDArray[np.int32],
    kernel: str | None,
    out: npt.NDArray[Any] | None,
    epilogue: Epilogue,
) -> npt.NDArray[Any]:
    """The same sum, then the epilogue inside the tile. `out` has the dtype that the epilogue gives.

    Also a ValueError, worded for the user, where shapes of scale or bias do not fit, scale is not finite, an int32 bias could carry a sum
    out of int32, or out_zero lies outside the interval of the result. TypeError for a missing or unknown field.
    """

def check_gemm(
    *,
    k: int,
    n: int,
    a_bits: int,
    a_signed: bool,
    b_bits: int,
    b_signed: bool,
    a_zero: int,
    b_zero: int | npt.NDArray[np.int32],
    epilogue: Epilogue | None,
) -> None:
    """The ValueErrors and TypeErrors of `gemm` and `gemm_fused` but for a's values, `out` and the kernel: for products on a GPU."""

class NotFinite(ValueError):  # noqa: N818  # the name of the native class
    """The input of a plan holds a NaN or an infinity."""

class CodeOutOfRange(ValueError):  # noqa: N818  # the name of the native class
    """The input of a plan holds a code above 2^bits - 1."""

class After(TypedDict):
    """What a table makes of codes of this quantizer; see `Finish`."""

    bits: int
    zero: int
    scale: float
    other: tuple[int, int] | None
    table: npt.NDArray[np.uint8]

class _Terms(TypedDict, total=False):
    scale: npt.NDArray[np.float32] | None
    bias: npt.NDArray[np.float32] | None
    start: npt.NDArray[np.int32] | None
    unit: float
    after: list[After | None] | None

class Finish(_Terms):
    """The epilogue of a step (csrc/plan/finish_spec.h); a plain dict at run time. N is the number of channels.

    start         None or int32 (N,), only where the step says so: acc += start[c], exact
    scale, bias   float32 (N,), only where the step says so: v = float32(acc) * scale[c] + bias[c], two roundings
    unit          float32, 1.0 if left out: what v counts in. Where this says r_scale or the step says scale, that is divided by it;
                  codes are made by float32(unit / scale). Floats need a unit of 1.0
    residual      None or (tensor of codes, first channel): v += float32(r - r_zero) * r_scale
    low, high     v = min(max(v, low), high)
    targets       1 to 4 of them: codes by the tensor's quantizer, or floats
    thresholds    one per target: None, or (int32 (N, 2^bits - 1) ascending, bool (N,) flip), not with a residual:
                  code = how many thresholds[c] are <= (~acc if flip[c] else acc)
    after         None, or one per target: None, or the codes u are of the quantizer described there, and the target holds table[u], or with
                  another operand, a slice of a tensor of codes w, table[u | w << bits]: uint8, 2^(bits + bits of w), at most 256
    """

    residual: tuple[int, int] | None
    low: float
    high: float
    targets: list[tuple[int, int]]
    thresholds: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]] | None]

class Plan:
    """A network as a list of steps over images of codes (csrc/plan/plan.h). Shapes are of one image, (height, width, channels).

    A tensor of codes holds unsigned bytes u of `bits` bits: u = clamp(rint(v * (1 / scale)) + zero, 0, 2^bits - 1) in float32, halves to
    even; u stands for (u - zero) * scale. The inputs are the first steps; steps run in the order in which they are added, and each tensor
    is written before it is read. A target is (tensor, first channel).

    A step is added by the method of its kind, whose arguments are its fields (csrc/plan/steps/*.cpp, where more is said about each).
    ValueError for a field that is missing, unknown or does not fit, TypeError for one of another type or dtype; a refused call changes
    nothing.
    """

    arena_bytes: int
    """Of the activations of one run, after finalize."""
    weight_bytes: int
    """Of the packed weights of all steps."""

    def __init__(self) -> None: ...
    def codes(self, height: int, width: int, channels: int, bits: int, zero: int, scale: float) -> int:
        """A tensor of codes."""

    def floats(self, height: int, width: int, channels: int) -> int:
        """A tensor of float32, which only `combine`, `linear_floats` and `output` can read."""

    def input_floats(self, *, channels: int, height: int, width: int, targets: list[int], divide: bool = ..., nhwc: bool = ...) -> None:
        """(N, channels, height, width) float32, or (N, height, width, channels), quantized into 1 to 4 whole tensors.

        divide: by v / scale, rounded once.
        """

    def input_codes(self, *, tensor: int, nhwc: bool) -> None:
        """uint8 (N, H, W, C) or (N, C, H, W)."""

    def conv(
        self,
        *,
        source: int,
        source_channel: int,
        weights: Packed,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        weight_zero: int,
        finish: Finish,
        method: str | None,
    ) -> None:
        """weights (kh * kw * Cp, N): row (ky * kw + kx) * Cp + c, Cp = channels read, rounded up to 4; padding: top, left, bottom, right.

        Pad rows hold weight_zero; at one bit +1, and then the slice must end at the tensor's last channel. Padding is code zero.
        From a tensor of 1 to 3 channels, where kw > 1 and dilation[1] == 1, weights may be padded by kernel rows instead: kh * (kw * C
        rounded up to 4) of them, and are taken as such if that is what K says. Pads then hold weight_zero, so one bit can have none. All
        readers of a tensor must agree on one of the two.
        method: None, "direct", "winograd", or what `steps` gives: the name of a kernel or of a transform.
        """

    def depthwise(
        self,
        *,
        source: int,
        weights: npt.NDArray[np.int8],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        finish: Finish,
    ) -> None:
        """weights (kh, kw, C)."""

    def linear(self, *, source: int, weights: Packed, weight_zero: int, finish: Finish, kernel: str | None) -> None:
        """weights (H * W * Cp, N) in the order (y, x, c), Cp = channels rounded up to 4; the result is 1 x 1 x N."""

    def max_pool(
        self,
        *,
        source: int,
        target: tuple[int, int],
        rows: npt.NDArray[np.int32],
        columns: npt.NDArray[np.int32],
        dilation: tuple[int, int],
        takes_min: npt.NDArray[np.bool_] | None = ...,
    ) -> None:
        """rows (Ho, 2), columns (Wo, 2): begin and end of each window, clipped to the image, never empty. Same quantizer on both sides.

        takes_min: bool (C,), channels whose minimum is taken instead of the maximum.
        """

    def window_mean(
        self,
        *,
        source: int,
        rows: npt.NDArray[np.int32],
        columns: npt.NDArray[np.int32],
        divisor: npt.NDArray[np.float32],
        finish: Finish,
    ) -> None:
        """v = float32(sum of (u - zero)) * (scale / divisor), divisor (Ho, Wo); finish without scale and bias."""

    def rescale(self, *, source: int, finish: Finish) -> None:
        """v = float32(u - zero) * scale; finish without scale and bias."""

    def gather(
        self,
        *,
        source: int,
        source_channel: int,
        channels: int,
        target: tuple[int, int],
        rows: npt.NDArray[np.int32],
        columns: npt.NDArray[np.int32],
    ) -> None:
        """out[y][x] = in[rows[y]][columns[x]], an index of -1: code zero. Same quantizer on both sides."""

    def rearrange(
        self,
        *,
        source: int,
        target: tuple[int, int],
        rows: npt.NDArray[np.int32],
        columns: npt.NDArray[np.int32],
        channels: npt.NDArray[np.int32],
    ) -> None:
        """out[y][x][c] = in[rows[y] + columns[x] + channels[c]], sums of places (y, x, c). Same quantizer on both sides.

        rows (Ho, 3), columns (Wo, 3), channels (Co, 3), none negative.
        """

    def lookup(
        self,
        *,
        source: int,
        target: tuple[int, int],
        codes: npt.NDArray[np.uint8] | None = ...,
        values: npt.NDArray[np.float32] | None = ...,
    ) -> None:
        """out[y][x][c] = codes[r][in[y][x][c]], for floats values[r][...]; one of the two, (1, 2^bits): r = 0, or (C, 2^bits): r = c."""

    def combine(
        self,
        *,
        operands: list[tuple[int, int]],
        channels: int,
        multiply: bool,
        low: float,
        high: float,
        targets: list[tuple[int, int]],
        divide: bool,
    ) -> None:
        """v = the sum or product of 1 to 4 slices of codes or floats, H x W, all but the first also 1 x 1; clamped; 1 to 4 targets.

        divide: codes by v / scale, rounded once.
        """

    def linear_floats(
        self, *, source: int, target: tuple[int, int], weights: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
    ) -> None:
        """weights (H * W * C, N) in the order (y, x, c), bias (N,): a product of floats, summed in that order in float32; 1 x 1 x N."""

    def grouped_linear(
        self,
        *,
        source: int,
        target: tuple[int, int],
        weights: Packed,
        group: int,
        scales: npt.NDArray[np.float32],
        zeros: npt.NDArray[np.float32] | None = ...,
        zero: int = ...,
        table: npt.NDArray[np.int32] | None = ...,
        bias: npt.NDArray[np.float32] | None = ...,
        per_group: bool = ...,
    ) -> None:
        """A product of each pixel's channels with weights in groups, as `Grouped`; the target holds floats.

        source: floats, quantized in the call per pixel, or per group of it; or codes. NotFinite for a NaN.
        """

    def rows(
        self,
        *,
        operands: list[tuple[int, int]],
        channels: int,
        groups: int,
        function: str,
        gamma: npt.NDArray[np.float32] | None = ...,
        beta: npt.NDArray[np.float32] | None = ...,
        epsilon: float | None = ...,
        targets: list[tuple[int, int]],
        divide: bool,
        integers: bool | None = ...,
    ) -> None:
        """The function of the sum of 1 to 4 operands, for each group of `channels` channels of a pixel; 1 to 4 targets.

        Operands have groups * channels channels, or those of one group, which count for all; H x W, all but the first also 1 x 1.
        function: identity, layer_norm, rms_norm (with gamma and beta (channels,), and epsilon), softmax, gelu, gelu_tanh, silu, sigmoid or
        tanh. divide: codes by v / scale, rounded once. The same bits on every instruction set. integers: by fixed-point numbers throughout.
        """

    def product(
        self,
        *,
        a: tuple[int, int],
        b: tuple[int, int],
        target: tuple[int, int],
        sizes: tuple[int, int, int, int],
        steps: npt.NDArray[np.int32],
        scale: float,
        in_units: bool,
    ) -> None:
        """target[b][m][n] = scale * sum over k of a[b][m][k] * b[b][k][n]; sizes: batch, rows, depth, columns.

        steps (9, 3): how far an index moves (y, x, c), of a for b, m, k; of b for b, k, n; of the target for b, m, n, all of which is
        written. Two operands of codes are multiplied exactly, as integers less their zeros; in_units: `scale` gives units of the target.
        """

    def attention(
        self,
        *,
        q: tuple[int, int],
        k: tuple[int, int],
        v: tuple[int, int],
        mask: tuple[int, int] | None,
        target: tuple[int, int],
        sizes: tuple[int, int, int, int],
        values: int,
        steps: npt.NDArray[np.int32],
        scale: float,
    ) -> None:
        """target[b][m] = softmax over n of (scale * q[b][m] . k[b][:, n] + mask[b][m][n]) times v[b], all of floats.

        What `product`, `rows` and `product` give, bit for bit. sizes: batch, rows, depth, columns; values: columns of v. steps (12, 3): as
        for `product`, of q for b, m, k; of k for b, k, n; of v for b, n, j; of the target for b, m, j. mask: of batch * columns channels or
        `columns`, one pixel or one per row; or None.
        """

    def dynamic_linear(
        self,
        *,
        source: int,
        weights: Packed,
        weight_zero: int,
        per_row: bool,
        finish: Finish,
        kernel: str | None,
        bits: int | None = ...,
        function: str | None = ...,
        outliers: npt.NDArray[np.int32] | None = ...,
        outlier_weights: npt.NDArray[np.float32] | None = ...,
    ) -> None:
        """Floats, quantized in the call as ONNX's DynamicQuantizeLinear does it, times weights (Cp, N); the result is H x W x N.

        v = float32(sum) * float32(scale of the call * finish scale) + bias, then `function` of single elements. per_row: a scale for each
        pixel, and the codes of QONNX's Quant, whose zero point is added before rounding. bits: of the codes. NotFinite for a NaN.

        outliers: ascending channels that are 0 for the codes; with per_row only. outlier_weights (outliers, N): v = fma(x, w, v) for each
        of them, in their order, before the function.
        """

    def recurrent(
        self,
        *,
        source: int,
        kind: str,
        input_weights: Packed,
        weights: Packed,
        weight_zeros: tuple[int, int],
        input_scale: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        input_bits: int,
        hidden_bits: int,
        per_row: bool,
        reverse: bool,
        targets: list[tuple[int, int]],
        divide: bool,
        candidate: Packed | None = ...,
        hidden_bias: npt.NDArray[np.float32] | None = ...,
        hidden_scale: float | None = ...,
        hidden_zero: int | None = ...,
        hidden: tuple[int, int] | None = ...,
        cell: tuple[int, int] | None = ...,
        lengths: tuple[int, int] | None = ...,
        final_hidden: tuple[int, int] | None = ...,
        final_cell: tuple[int, int] | None = ...,
    ) -> None:
        """One direction of an "lstm" (gates i, f, g, o) or a "gru" (r, z, n) of H units over a row of pixels, 1 x T x C: codes or floats.

        input_weights (Cp, gates * H), weights (Hp, gates * H), Cp and Hp rounded up to 4; of a GRU that resets h before the product
        (Hp, 2 H), and candidate (Hp, H). Floats become codes of input_bits by one scale per sequence, or with per_row per pixel; h becomes
        codes of hidden_bits by the scale of each step, or by hidden_scale and hidden_zero. hidden, cell, lengths: (tensor of floats,
        element); the first states, and how many pixels count. targets: 0 to 4, 1 x T x H; final_hidden, final_cell: 1 x 1 x H floats.
        NotFinite for a NaN, CodeOutOfRange for a length that is not an integer of 0..T. The same bits on every instruction set.
        """

    def output(self, *, tensor: int, nhwc: bool) -> None:
        """float32, or uint8 codes, (N, C, H, W) or (N, H, W, C)."""

    def finalize(self, group: int, throughput: bool, tune: bool = ..., tuned: Callable[[], object] | None = ...) -> None:
        """Lay out the buffers. group: images that go through the steps together; throughput: one group per thread, if there are several.

        tune: time the ways of each convolution on this CPU, with the threads of now (one with throughput), and keep the fastest.
        tuned: called behind each step that was looked at; what it raises ends the tuning, and the plan stays open.
        """

    def run(
        self, x: npt.NDArray[Any] | Sequence[npt.NDArray[Any]], outputs: list[npt.NDArray[Any]] | None = None
    ) -> list[npt.NDArray[Any]]:
        """Any number of images, C-contiguous, of several inputs an array each; one array per output. Thread-safe; releases the GIL.

        Raises NotFinite, CodeOutOfRange, TypeError (dtype) and ValueError (shape).
        """

    def profile(self, x: npt.NDArray[Any] | Sequence[npt.NDArray[Any]]) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.int64]]:
        """What `run` gives, and the nanoseconds of each step."""

    def steps(self) -> list[dict[str, Any]]:
        """kind, name, method, source, targets, out_shape, macs, a_bits, w_bits of each step; input and output are steps, too.

        kind is the method that added it; name is for people: both kinds of input are "input".
        """

class PlanCall:
    """A finalized plan, called with arrays (N, *input shape) for results (N, *output shape); shapes are of one image."""

    def __init__(self, plan: Plan, input_shapes: Sequence[tuple[int, ...]], output_shapes: Sequence[tuple[int, ...]]) -> None:
        """ValueError for a plan that is not finalized, and shapes of other sizes than its ports."""

    def __call__(self, *arrays: object) -> list[npt.NDArray[Any]] | None:
        """One array per output; None where the arguments are not one plain array per input, C-contiguous, of its dtype and shape.

        Thread-safe; releases the GIL. Raises NotFinite and CodeOutOfRange.
        """

def plan_steps() -> dict[str, tuple[str, ...]]:
    """The kinds of steps, each with the names of its fields."""

def kernels() -> list[dict[str, Any]]:
    """The table, best first.

    name, technique, isa, mr, nr (ints), here (this CPU has the instructions), available (and the ISA in force lets them be used), pairs
    (list of (a_bits, b_bits)), spill_every ({(a_bits, b_bits): steps between two spills of the narrow accumulators, in the kernel's own
    steps; 0 where it spills inside one}; empty where the kernel is not `here`).
    """

def rank(m: int, n: int, k: int, a_bits: int, a_signed: bool, b_bits: int, b_signed: bool) -> list[tuple[str, bool, str, float, str]]:
    """(name, runnable, why not or "", seconds or nan, basis) for every kernel, in the order of preference.

    basis: "tuned", "measured here", "measured" or "modelled", "" with nan.
    """

def set_tuned(m: int, n: int, k: int, a_bits: int, b_bits: int, seconds: dict[str, float]) -> None:
    """From now on these are the seconds of these kernels at this shape, and they rank first.

    ValueError for an unknown kernel, and for seconds that are not positive and finite.
    """

def set_measured(heights: list[int], costs: list[tuple[str, int, int, list[float]]]) -> None:
    """What kernels take here, instead of the costs that ulp comes with: (kernel, a_bits, b_bits, femtoseconds per multiply-accumulate at
    each height of A). Replaces what was given before.

    ValueError for an unknown kernel, bits that it does not take, and figures that are not positive and finite.
    """

def forget_tuned() -> None:
    """Undo every set_tuned and set_measured."""

def cpu_core() -> str:
    """Name of the core where kernels are chosen by it, "cortex-a72"; an unknown one as "arm-41-d0b"; "" on other architectures."""

def cost_core() -> str:
    """Name of the core whose costs come closest, "zen4", which the choice of kernels follows where there are any; "" if none is known."""

def last_kernel() -> str:
    """Name of the kernel that this thread's last gemm ran, "" before the first."""

def isas() -> list[str]:
    """Known to this build, best first, e.g. ["avx2", "baseline"]."""

def available_isas() -> list[str]:
    """Those of isas() that this CPU runs, best first."""

def isa() -> str:
    """The best ISA that kernels may use now."""

def set_isa(name: str) -> None:
    """ValueError for an unknown name (lists the known ones) or one this CPU lacks."""

def num_threads() -> int: ...
def set_num_threads(n: int) -> None:
    """1..1024, else ValueError."""

def build_info() -> dict[str, str]:
    """compiler, flags, build_type, version."""
