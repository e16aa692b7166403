"""The name "ulp" among the backends of torch.compile."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

_GROUP = "torch_dynamo_backends"


def backend(graph: Any, example_inputs: Any, **options: Any) -> Any:
    """See `ulp._bridge.dynamo.backend`, which is imported at the first graph."""
    from ulp._bridge import dynamo

    return dynamo.backend(graph, example_inputs, **options)


def register() -> None:
    """Register it where the package's metadata do not, as in a checkout that is not installed: torch's registry takes seconds to import."""
    if not any(entry.name == "ulp" for entry in entry_points(group=_GROUP)):
        from torch._dynamo.backends.registry import register_backend

        register_backend(compiler_fn=backend, name="ulp")
