"""Stage 2: aligned views to a dense view sequence along a path."""
