"""Models that read a user's items in the order of time."""
