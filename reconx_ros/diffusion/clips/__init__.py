"""Clips between keyframes: planned, run through a video model, judged."""
