"""Models that spell semantic IDs."""
