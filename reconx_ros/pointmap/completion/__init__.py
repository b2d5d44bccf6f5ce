"""Depth of every pixel that a camera saw: a small network completes what stage 1 measured."""
