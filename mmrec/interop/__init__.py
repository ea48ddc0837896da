"""Bridges to other recommender toolboxes; nothing of them is imported until it is asked for."""
