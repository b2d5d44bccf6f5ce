"""Public checkpoints in other layouts, rewritten for our network."""
