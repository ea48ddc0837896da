"""Rows with labels, for models that predict clicks."""
