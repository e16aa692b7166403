"""Benchmarks of `ulp` beside its peers. `python -m bench --help`; nothing here is needed to install or use `ulp`."""
