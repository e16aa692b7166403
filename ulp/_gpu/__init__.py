"""The same calls on a GPU: what `ulp.gemm`, `ulp.pack`, `ulp.explain` and `ulp.kernels` do for arrays and weights in its memory.

native.py: the module `ulp._cuda`, if this build has it. arrays.py: other libraries' arrays. packed.py: weights. gemm.py: products.
"""
