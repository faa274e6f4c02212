"""Profiling of a model: times of the stages of a frame, throughput, and roofline of the engine."""
