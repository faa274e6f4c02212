"""Conversion of model files: to TensorRT engines, to FP16 and to INT8."""
