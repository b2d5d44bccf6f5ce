"""Stage 3: view sequence to Gaussians, and pictures of them."""
