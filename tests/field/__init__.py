"""Models that nobody here made, out of packages on PyPI: does each load, give what onnxruntime gives, and run no slower?"""
