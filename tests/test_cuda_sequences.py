"""Steps of sequences on the emulated GPU: what the CPU's are tested with, bit for bit, and whole recurrent networks and encoders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_plan_recurrent
import test_plan_rows
from cuda_modules import NO_EMULATOR, load_emulated
from reference import assert_exact
from test_cuda_kernels import Emulator
from test_cuda_network import assert_as_on_cpu, emulator, module, on_gpu  # noqa: F401  # fixtures
from test_plan import native as on_cpu

from ulp import _core, nn
from ulp._gpu import builder, sequences, steps

pytestmark = pytest.mark.skipif(load_emulated() is None, reason=NO_EMULATOR)


@pytest.fixture
def checked(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:  # noqa: F811
    """The tests of the CPU's steps compare the GPU with the CPU instead of one ISA with another. What was compared is counted."""
    runs: list[int] = []

    def on_both(describe: Callable[[Any], None], x: Any) -> list[Any]:
        emulator.seed(len(runs))
        emulator.configure(*[(75, 4), (80, 4), (90, 132)][len(runs) % 3])
        assert_as_on_cpu(describe, x)
        runs.append(len(x))
        return on_cpu(describe).run(x)  # type: ignore[no-any-return]

    for owner in (test_plan_rows, test_plan_recurrent):
        monkeypatch.setattr(owner, "on_every_isa", on_both)
    yield runs
    assert runs


SHAPES = [(3, 1, 1, 1), (5, 33, 1, 2), (2, 15, 6, 1), (1, 16, 3, 2)]


@pytest.mark.parametrize("function", test_plan_rows.FUNCTIONS)
def test_functions_of_rows(checked: list[int], function: str) -> None:
    for shape in SHAPES:
        test_plan_rows.test_functions_of_rows(function, *shape)


@pytest.mark.parametrize(
    "case",
    [
        *(partial(test_plan_rows.test_elementwise_functions_are_within_their_ulps, name) for name in sorted(test_plan_rows.BOUNDS)),
        test_plan_rows.test_a_mask_counts_for_all_heads_and_rows,
        *(
            partial(test_plan_rows.test_products_of_activations, sizes, transposed)
            for transposed in (False, True)
            for sizes in ((1, 1, 1, 1), (3, 7, 5, 17), (2, 13, 700, 3))
        ),
        *(
            partial(test_plan_rows.test_attention_is_two_products_around_softmax, sizes, mask)
            for sizes, mask in (((1,) * 5, ""), ((3, 9, 17, 5, 7), "one"), ((2, 20, 33, 16, 3), "rows"), ((3, 7, 19, 8, 16), "heads"))
        ),
        *(partial(test_plan_rows.test_products_with_codes_of_the_call, a, b) for a in (False, True) for b in (False, True)),
        *(
            partial(test_plan_rows.test_products_with_fewer_bits_and_a_function, *given)
            for given in ((4, 4, "gelu"), (8, 1, "silu"), (1, 8, "identity"), (6, 2, "tanh"))
        ),
        *(partial(test_plan_rows.test_outliers_are_multiplied_in_floats, *shape) for shape in ((1, 5, 3), (13, 40, 70))),
        test_plan_rows.test_outliers_whose_products_leave_float32,
        test_plan_rows.test_a_division_by_multiplications_rounds_as_a_division,
        *(partial(test_plan_rows.test_products_with_weights_in_groups, source) for source in ("rows", "groups", 3, 8)),
        *(
            partial(test_plan_recurrent.test_layers_against_integers_and_float64, kind, seed)
            for kind in ("lstm", "gru")
            for seed in range(6)
        ),
    ],
    ids=lambda case: "-".join(map(str, [getattr(case, "func", case).__name__, *getattr(case, "args", ())])),
)
def test_the_cpus_steps(checked: list[int], case: Callable[[], None]) -> None:
    case()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_several_sequences(checked: list[int], kind: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        describe, time, channels = test_plan_recurrent.one_layer(rng, kind)
        test_plan_rows.on_every_isa(describe, rng.standard_normal((5, 1, time, channels)).astype(np.float32))


# Whole networks.


class Recurrent(nn.Module):
    """Two layers in both directions, and a linear layer on each pixel of their result; the last states, too."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(10, 12, 2, batch_first=True, bidirectional=True, bits=4, **options)
        self.head = nn.Linear(24, 5, bits=4)

    def forward(self, x: Any, *states: Any) -> Any:
        y, last = self.rnn(x, (tuple(states) if len(states) == 2 else states[0]) if states else None)
        return [self.head(y), *(list(last) if isinstance(last, tuple) else [last])]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_networks(emulator: Emulator, kind: Any, dynamic: bool) -> None:  # noqa: F811
    emulator.configure(90, 8)
    rng = np.random.default_rng(3)
    network = Recurrent(kind, act_bits=6, dynamic=dynamic)
    x = rng.standard_normal((3, 6, 10)).astype(np.float32)
    states = [rng.uniform(-1, 1, (3, 4, 12)).astype(np.float32) for _ in range(2 if kind is nn.LSTM else 1)]
    network.calibrate([x])
    compiled = nn.compile(network, (x.shape, *(s.shape for s in states)), tune=False)
    there = compiled.to("cuda")
    for images in (3, 1):
        given = x[:images], *(s[:images] for s in states)
        for i, (found, expected) in enumerate(zip(there(*given), compiled(*given), strict=True)):
            assert_exact(found, expected, f"result {i}")
    bad = states[0].copy()
    bad[1, 2, 3] = np.inf
    with pytest.raises(_core.NotFinite):
        there(x, bad, *states[1:])
    assert "Recurrent" not in str(there)
    assert there(*given)[0].shape == (1, 6, 5)


def test_lengths_of_sequences(emulator: Emulator) -> None:  # noqa: F811
    """Counted from either end; zeros behind them; others are refused and read nothing beyond."""
    rng = np.random.default_rng(5)
    for kind, seed in (("lstm", 0), ("gru", 3), ("lstm", 4)):
        describe, time, channels = test_plan_recurrent.one_layer(np.random.default_rng(seed), kind, reverse=bool(seed))

        def with_lengths(plan: Any, describe: Any = describe) -> None:
            count = plan.floats(1, 1, 1)
            plan.input_floats(channels=1, height=1, width=1, targets=[count], nhwc=True)
            recurrent = plan.recurrent
            plan.__dict__["recurrent"] = lambda **fields: recurrent(**fields, lengths=(count, 0))
            describe(plan)

        counts = np.array([time, 0, max(time - 1, 0)], np.float32).reshape(3, 1, 1, 1)
        x = rng.standard_normal((3, 1, time, channels)).astype(np.float32)
        assert_as_on_cpu(with_lengths, counts, x)
        x[1] = np.nan  # of which nothing counts
        network, _ = on_gpu(with_lengths)
        for wrong in (-1, time + 1, 0.5, np.inf):
            counts[2] = wrong
            with pytest.raises(_core.CodeOutOfRange, match="the length of a sequence"):
                network.on_host([counts, np.zeros_like(x)])


def test_two_networks_at_once_and_a_full_device(emulator: Emulator) -> None:  # noqa: F811
    """Neither disturbs the other; a batch that does not fit is a MemoryError and costs nothing that was there."""
    rng = np.random.default_rng(6)
    compiled, inputs = [], []
    for kind in (nn.LSTM, nn.GRU):
        x = rng.standard_normal((4, 6, 10)).astype(np.float32)
        compiled.append(nn.compile(Recurrent(kind).calibrate([x]), x, tune=False))
        inputs.append(x)
    networks = [network.to("cuda") for network in compiled]
    expected = [network(x) for network, x in zip(compiled, inputs, strict=True)]
    found: list[Any] = [None, None]

    def work(i: int) -> None:
        for images in (1, 4):
            found[i] = networks[i](inputs[i][:images])

    def check() -> None:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one, other in zip(found, expected, strict=True):
            for i, (a, b) in enumerate(zip(one, other, strict=True)):
                assert_exact(a, b, f"result {i}")

    check()
    emulator.library.ulp_emulator_configure(80, 4, 2**20)
    with pytest.raises(MemoryError):
        networks[0](np.repeat(inputs[0], 400, axis=0))
    emulator.configure(80)
    check()
    networks.pop(0)
    networks.insert(0, compiled[0].to("cuda"))
    check()


@pytest.mark.parametrize("codebook", [None, "nf4"])
def test_weights_in_groups(emulator: Emulator, codebook: Any) -> None:  # noqa: F811
    rng = np.random.default_rng(4)
    kinds: Any = (96, 40, "row"), (40, 8, "group")
    layers = [nn.GroupedLinear(n, m, bits=4, group_size=32, codebook=codebook, act=act) for n, m, act in kinds]
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    for layer in layers:
        layer.weight = rng.standard_normal((layer.out_features, layer.in_features)).astype(np.float32)
        layer.bias = rng.standard_normal(layer.out_features).astype(np.float32)
    x = rng.standard_normal((2, 7, 96)).astype(np.float32)
    compiled = nn.compile(network, x, tune=False)
    assert_exact(compiled.to("cuda")(x), compiled(x), "in groups")


def test_nans_are_found(emulator: Emulator) -> None:  # noqa: F811
    for function in ("softmax", "gelu"):
        network, _ = on_gpu(test_plan_rows.one_function(function, 2, 5))
        x = np.zeros((1, 1, 2, 5), np.float32)
        network.on_host([x])
        x[0, 0, 1, 3] = np.nan
        with pytest.raises(_core.NotFinite):
            network.on_host([x])


def test_every_field_of_a_step_is_read_or_refused(emulator: Emulator) -> None:  # noqa: F811
    """A field that is added to a step of the CPU must not be dropped on the GPU."""
    source = "".join(Path(str(owner.__file__)).read_text("utf-8") for owner in (builder, steps, sequences))
    dropped = {(kind, name) for kind, fields in _core.plan_steps().items() for name in fields if f'"{name}"' not in source}
    assert dropped == {("conv", "method")}  # of the CPU

    def describe(plan: Any) -> None:
        x, y = plan.floats(1, 2, 5), plan.floats(1, 2, 5)
        plan.input_floats(channels=5, height=1, width=2, targets=[x], nhwc=True)
        plan.rows(operands=[(x, 0)], channels=5, groups=1, function="softmax", targets=[(y, 0)], divide=True, epsilon=0.0, integers=True)
        plan.output(tensor=y, nhwc=True)

    with pytest.raises(ValueError, match=r"the step 'rows with integers' of .* has no form on a GPU"):
        on_gpu(describe)
