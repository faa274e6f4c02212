"""Bags: making them from data sets and videos, replay with a model, and evaluation."""
