"""Losses: the network's outputs and targets -> weighted loss terms."""
