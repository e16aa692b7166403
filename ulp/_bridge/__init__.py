"""Between frameworks: `compile` takes a model of any of them to the loader of ulp.onnx, `export` writes what came of it to an ONNX file.

Every source becomes an onnx.ModelProto first. So there is one loader, one set of rules for what is integer, one quantizer (ulp.quantize).
"""

from __future__ import annotations

__all__: list[str] = []
