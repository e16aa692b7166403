"""The same calls on a GPU. `ulp.gemm`, `ulp.pack`, `ulp.explain` and `ulp.kernels` come here for arrays and weights in a device's memory.

native.py: the module `ulp._cuda`, if this build has it. arrays.py: other libraries' arrays. packed.py: weights. gemm.py: the call.
"""
