"""Exported vectors made smaller and scored again: codecs, hubness, fused rankings, refined queries."""
