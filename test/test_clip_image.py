"""Pictures for CLIP: numbers of kornia 0.8.2's resize, which the public code calls."""

from __future__ import annotations

import torch

from reconx_ros.diffusion.network.clip_image import clip_pixels

# Row and column of the result: red, green, blue of kornia's bicubic, aligned, antialiased resize, normalised.
KORNIA = {
    (0, 0): (0.27455, 0.50419, -1.48021),
    (10, 200): (1.2498, -1.71993, -1.21679),
    (112, 113): (1.19184, 1.31511, -1.02417),
    (223, 223): (0.78053, 1.20585, -0.89959),
    (150, 3): (0.84977, -1.60098, -0.81549),
}


def test_shrinks_as_kornia_does() -> None:
    v, u = torch.meshgrid(torch.arange(320.0), torch.arange(512.0), indexing="ij")
    picture = torch.stack([torch.sin(0.3 * u) * torch.cos(0.2 * v), torch.sin(0.5 * u + v), (u * v % 7) / 3.5 - 1])
    result = clip_pixels(picture[None])
    assert result.shape == (1, 3, 224, 224)
    for (row, column), colour in KORNIA.items():
        assert torch.allclose(result[0, :, row, column], torch.tensor(colour), atol=2e-5)


def test_a_grey_picture_stays_grey() -> None:
    small, large = (clip_pixels(torch.zeros(1, 3, *size)) for size in ((40, 64), (576, 1024)))
    assert torch.allclose(small, large, atol=1e-5)
    assert torch.allclose(small, small[:, :, :1, :1].expand_as(small), atol=1e-5)
