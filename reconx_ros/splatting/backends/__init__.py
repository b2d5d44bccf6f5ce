"""Rasterisers, imported late through the registry."""
