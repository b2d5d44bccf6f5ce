"""Readers of the layouts in which data sets come, one file each; docs/datasets.md describes them to users."""
