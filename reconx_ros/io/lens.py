"""Calibration of a picture, with or without distortion, and its way to an ideal pinhole picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconx_ros.core import InvalidInputError, PinholeCamera
from reconx_ros.io.rectify import Rectifier, make_rectifier

_MAX_SHEAR = 0.02  # how far the sides' ratio of a shrunken picture may be from its calibration's: its size was rounded


@dataclass(frozen=True, kw_only=True)
class Lens:
    """Calibration of a picture; distortion as in ROS's CameraInfo, see ``reconx_ros.io.rectify``.

    Attributes:
        camera: intrinsics of the picture as it is stored, pixel (0, 0) at the centre of the first pixel.
        model: "" for none, "plumb_bob", "rational_polynomial" or "equidistant".
        coefficients: of the model.
    """

    camera: PinholeCamera
    model: str = ""
    coefficients: tuple[float, ...] = ()

    @property
    def is_pinhole(self) -> bool:
        """Whether nothing is bent. A fisheye whose coefficients are all 0 is none: its radius is f times the angle."""
        return self.model != "equidistant" and not any(self.coefficients)

    def scaled_to(self, width: int, height: int, name: str) -> Lens:
        """The calibration of a picture that was shrunk or enlarged as a whole; ``name`` begins the error.

        Raises:
            InvalidInputError: when the sides have other proportions than the calibrated ones.
        """
        if (width, height) == self.camera.size:
            return self
        ratio = (width / self.camera.width) / (height / self.camera.height)
        if abs(ratio - 1) > max(_MAX_SHEAR, 1 / min(width, height)):
            size = f"{self.camera.width}x{self.camera.height}"
            raise InvalidInputError(f"{name} is {width}x{height}, expected {size} or a scaled copy of that")
        return replace(self, camera=self.camera.scaled_to(width, height))

    def rectifier(self) -> Rectifier:
        """From the stored picture to a pinhole picture; its camera is ``camera`` itself where nothing is distorted.

        Raises:
            InvalidInputError: for a distortion that leaves no pinhole view.
        """
        if self.is_pinhole:
            return Rectifier(camera=self.camera, changes=False)
        return make_rectifier(*self.camera.size, self.camera.matrix.ravel(), self.model, self.coefficients)
