"""Benchmarks and checks of the CUDA kernels on a device: `python -m bench.cuda.run` does all of it."""
