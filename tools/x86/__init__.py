"""Kernels for x86 on emulated CPUs."""
