"""Baselines without multimodal graphs."""
