"""Rankers: models of the probability that a row is a click."""
