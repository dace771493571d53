"""Our decoding engine."""
