"""Training data: annotation, sampling, augmentation, loading, the paper's settings, and checks of data sets."""
