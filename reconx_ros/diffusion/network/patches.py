"""Stand-ins for autoencoder and CLIP in small networks that are trained from scratch. Nothing in here learns.

Latents are the pictures themselves, squares of pixels folded into channels: no detail is lost, and nothing is
compressed. Image tokens are pieces of the shrunken first picture with their places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf

from reconx_ros.core import InvalidInputError

_TOKEN_SIDE = 4  # px of a token's piece: 48 numbers


class PatchCodec:
    """Space-to-depth and back.

    Args:
        patch: side of a square in pixels.
        scale: factor of the latents; 2 gives those of simulated pictures a deviation near 1.
    """

    def __init__(self, patch: int, scale: float = 2.0) -> None:
        self.patch, self.scale = patch, scale

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] in [-1, 1] to [B, 3 p^2, T, H / p, W / p].

        Raises:
            InvalidInputError: for sides that are no multiples of the patch.
        """
        height, width = pixels.shape[-2:]
        if height % self.patch or width % self.patch:
            raise InvalidInputError(f"pictures are {width}x{height}, expected multiples of the patch of {self.patch}")
        return self.scale * nnf.pixel_unshuffle(pixels, self.patch).transpose(1, 2)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, 3 p^2, T, h, w] to [B, T, 3, H, W]."""
        return nnf.pixel_shuffle(latents.transpose(1, 2) / self.scale, self.patch)


def picture_tokens(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Tokens of pictures: the colours of one of side x side pieces, shrunken to 4x4 pixels, and which piece it is.

    Args:
        pixels: [B, 3, H, W] in [-1, 1].
        side: pieces along each side.

    Returns:
        [B, side^2, 48 + side^2].
    """
    small = nnf.adaptive_avg_pool2d(pixels, _TOKEN_SIDE * side)
    colours = nnf.pixel_unshuffle(small, _TOKEN_SIDE).flatten(2).transpose(1, 2)
    places = torch.eye(side**2, device=pixels.device, dtype=pixels.dtype).expand(len(pixels), -1, -1)
    return torch.cat([colours, places], dim=-1)


class PatchParts:
    """Frozen parts of a network that is trained from scratch: folded pixels, pieces of the picture, no text.

    Args:
        patch: side of the squares that are folded.
        image_tokens: along each side of the picture.
    """

    def __init__(self, patch: int, image_tokens: int) -> None:
        self.codec, self.image_tokens = PatchCodec(patch), image_tokens

    def to(self, device: torch.device) -> None:
        """There is nothing to move."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] in [-1, 1] to latents [B, C, T, h, w]."""
        return self.codec.encode(pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents back to pixels."""
        return self.codec.decode(latents)

    def tokens(self, first: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(text, image, no image) tokens of first pictures [B, 3, H, W]; text and the absent picture are zeros."""
        del frames
        image = picture_tokens(first, self.image_tokens)
        return torch.zeros_like(image[:, :1]), image, torch.zeros_like(image)
