"""Semantic IDs: a short tuple of codes for each item, made from its features, and the trie of those that exist."""
