"""A simulated robot in a procedural room: exact pictures, depth and poses, and what noisy sensors make of them."""
