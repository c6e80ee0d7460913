"""Who asks, and what they may do: scopes, grants and tokens."""
