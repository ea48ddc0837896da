"""Graph models over item features."""
