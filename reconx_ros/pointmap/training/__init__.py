"""Training of pairwise pointmap networks: losses, data, loop, evaluation against baselines that see no image."""
