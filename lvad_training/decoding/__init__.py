"""Decoding: the network's outputs to boxes and label maps, in training and in the exported graph."""
