"""One model file into another: TensorRT engines, FP16 and INT8."""
