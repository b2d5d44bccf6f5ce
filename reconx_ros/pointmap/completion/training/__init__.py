"""Training of the depth completion network."""
