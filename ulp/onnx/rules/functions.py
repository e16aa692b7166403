"""Functions of one value, as tables: what activations make of each code, also where they are written as several operators.

The result of any chain of elementwise operators that begins at one tensor of codes has one value per code (and channel). The operators
themselves compute these values, so that x * sigmoid(x), the forms of GELU and the like need no rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ulp.nn import graph as ir
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.parts import Function, Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger

from .operands import floats_of, per_channel

ACTIVATIONS = (
    *("Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min"),
    *("Mish", "Neg", "PRelu", "Pow", "QuickGelu", "Reciprocal", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt"),
    *("Swish", "Tanh", "ThresholdedRelu"),
)

Rule = Callable[[Scope, Node], Value]


def _function_of(value: Value) -> Function:
    """The value as a function of codes. NotInteger where it is none."""
    if value.function is not None:
        return value.function
    if value.grid is None:
        raise NotInteger("its input is not quantized")
    return Function(value.node, value.grid, value.grid.values(np.arange(value.grid.levels + 1, dtype=np.uint8))[None])


def _evaluated(scope: Scope, node: Node) -> tuple[Value, Function]:
    """The first operand that is computed, and the node's result as a function of the codes that all of its operands come from."""
    operands: list[Function | Array | None] = []
    first: Value | None = None
    for name in node.inputs:
        if not name or scope.is_constant(name):
            operands.append(scope.constant(name))
            continue
        value = floats_of(scope, name)
        first = first or value
        operands.append(_function_of(value))
    if first is None:
        raise NotInteger("none of its inputs is computed")
    source = next(f for f in operands if isinstance(f, Function))
    rows = 1
    arrays: list[Array | None] = []
    for operand in operands:
        if isinstance(operand, Function):
            if operand.source is not source.source or operand.grid != source.grid:
                raise NotInteger("its operands come from different codes")
            rows = max(rows, len(operand.values))
        elif operand is not None and operand.size > 1:
            operand = per_channel(operand, first).astype(operand.dtype)[None, :, None]  # noqa: PLW2901
            rows = operand.shape[1]
        elif operand is not None:
            operand = operand.reshape(())  # noqa: PLW2901
        arrays.append(operand.values[None] if isinstance(operand, Function) else operand)
    codes = source.values.shape[1]
    shape = (1, rows, codes)
    arrays = [np.broadcast_to(a, shape) if f is not a and a is not None else a for f, a in zip(operands, arrays, strict=True)]
    try:
        result = scope.run(node, arrays)[0]
    except OnnxError as error:
        raise NotInteger(f"the values of its table cannot be computed: {error}") from error
    if result.shape != shape or result.dtype != np.float32:
        raise NotInteger("it is no function of one value")
    if not np.isfinite(result).all():
        raise NotInteger("for some codes its result is no finite number")
    return first, Function(source.source, source.grid, np.ascontiguousarray(result[0]))


def function(scope: Scope, node: Node) -> Value:
    """An operator whose results depend on one code each."""
    first, made = _evaluated(scope, node)
    table = scope.add(node, ir.Table(made.grid, made.values), [made.source], first.part, made.source.shape)
    return Value(first.part, table, function=made, view=first.view)


def function_or(rule: Rule) -> Rule:
    """A table where the node is a function of codes, else the rule."""

    def either(scope: Scope, node: Node) -> Value:
        try:
            _evaluated(scope, node)
        except NotInteger:
            return rule(scope, node)
        return function(scope, node)

    return either


def or_function(rule: Rule) -> Rule:
    """The rule, whose result is known as a function, too, if it is one; and a table where the rule refuses or its operand is a table."""

    def both(scope: Scope, node: Node) -> Value:
        try:
            _, made = _evaluated(scope, node)
        except NotInteger:
            return rule(scope, node)
        operands = [scope.value(name) for name in node.inputs if name and not scope.is_constant(name)]
        if len(operands) > 1 or any(value.grid is None for value in operands):
            return function(scope, node)
        try:
            value = rule(scope, node)
        except NotInteger:
            return function(scope, node)
        return value if value.grid is not None else replace(value, function=made)

    return both
