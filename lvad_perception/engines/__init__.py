"""Loaded models: one small protocol, one module per runtime."""
