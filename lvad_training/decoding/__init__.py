"""Network outputs to boxes and label maps; the exported graph contains the same code."""
