"""Training of the video network."""
