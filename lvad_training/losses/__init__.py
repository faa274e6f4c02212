"""Outputs and targets -> loss terms."""
