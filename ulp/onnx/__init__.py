"""Running trained low-bit networks from ONNX files: QONNX, QCDQ, QDQ and QLinear operators. Needs the package `onnx`."""
