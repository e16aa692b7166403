"""Figures that others have published, quoted beside ours and never measured here: other CPUs, other code, other years."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quotation:
    """A published figure. key: of tables; value: a ratio, or None where it is a range or a rate, which words state."""

    source: str
    key: str
    value: float | None
    words: str


ULPPACK = "Won et al., ULPPACK, MLSys 2022, on ARM"
T_MAC = "Wei et al., T-MAC, EuroSys 2025"
BITNET = "Wang et al., 1-bit AI Infra: Part 1.1 (bitnet.cpp), 2024"

PUBLISHED = (
    Quotation(ULPPACK, "gemmlowp", 2.1, "W3A3 at 512x512x512 over gemmlowp"),
    Quotation(ULPPACK, "QNNPACK", 1.8, "W3A3 at 512x512x512 over QNNPACK"),
    Quotation(ULPPACK, "bitserial", 2.7, "W3A3 at 512x512x512 over a bit-serial kernel"),
    Quotation(ULPPACK, "networks fp32", 3.9, "seven CNNs at W3A3 over FP32, geometric mean"),
    Quotation(ULPPACK, "networks QNNPACK", 1.5, "seven CNNs at W3A3 over QNNPACK, geometric mean"),
    Quotation(T_MAC, "llama.cpp", 4.0, "low-bit Llama and BitNet models over llama.cpp: up to 4x tokens per second"),
    Quotation(T_MAC, "BitNet-b1.58-3B", None, "30 tokens per second on one core of an M2 Ultra, 71 on eight, 11 on a Raspberry Pi 5"),
    Quotation(BITNET, "llama.cpp, ARM", None, "BitNet models over llama.cpp: 1.37x to 5.07x on ARM"),
    Quotation(BITNET, "llama.cpp, x86", None, "BitNet models over llama.cpp: 2.37x to 6.17x on x86"),
)


def ratio(key: str) -> float:
    """The published ratio of that key."""
    return next(one.value for one in PUBLISHED if one.key == key and one.value is not None)
