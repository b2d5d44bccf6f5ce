"""Pairwise pointmap networks of the DUSt3R layout: two images in, one point and one confidence per pixel out.

Written from the published description (Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024) and held to
recorded outputs of the original. The same classes, smaller, make the networks of ``reconx train pointmap``.
"""
