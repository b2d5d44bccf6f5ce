"""What a network of the DUSt3R layout is made of, read from a checkpoint's model string or a hub ``config.json``."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconx_ros.core import InvalidInputError

HEADS = ("linear", "dpt")
_CLASSES = ("AsymmetricCroCo3DStereo", "AsymmetricMASt3R")
_MAX_STRING = 4096
_MIN_DPT_DEPTH = 10

# Arguments that must have the one value these networks are built for.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "pos_embed": ("RoPE100",),
    "patch_embed_cls": ("PatchEmbedDust3R", "ManyAR_PatchEmbed"),
    "output_mode": ("pts3d", "pts3d+desc24"),
    "depth_mode": (("exp", -math.inf, math.inf),),
    "conf_mode": (("exp", 1, math.inf),),
    "norm_im2_in_dec": (True,),
}
_SIZES = ("enc_embed_dim", "enc_depth", "enc_num_heads", "dec_embed_dim", "dec_depth", "dec_num_heads")
_DEFAULTED = ("patch_size", "mlp_ratio")
# Arguments that concern training, or the descriptors of MASt3R: they change nothing here.
_WITHOUT_EFFECT = ("freeze", "landscape_only", "two_confs", "desc_mode", "desc_conf_mode")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Widths, depths and head of a network.

    Attributes:
        enc_embed_dim, enc_depth, enc_num_heads: of the encoder.
        dec_embed_dim, dec_depth, dec_num_heads: of each of the two decoders.
        head_type: "linear" or "dpt".
        img_size: (height, width) in pixels that the network was trained at.
        patch_size: side of a patch in pixels.
        mlp_ratio: hidden width of the MLPs over their width.
        rope_base: base of the rotary frequencies.
        conf_min: lower end of the confidence.

    Raises:
        InvalidInputError: at birth, for sizes that make no network.
    """

    enc_embed_dim: int
    enc_depth: int
    enc_num_heads: int
    dec_embed_dim: int
    dec_depth: int
    dec_num_heads: int
    head_type: str
    img_size: tuple[int, int]
    patch_size: int = 16
    mlp_ratio: int = 4
    rope_base: float = 100.0
    conf_min: float = 1.0

    def __post_init__(self) -> None:
        for name in (*_SIZES, *_DEFAULTED):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInputError(f"network {name} is {value!r}, expected a whole number >= 1")
        for part in ("enc", "dec"):
            dim, heads = getattr(self, f"{part}_embed_dim"), getattr(self, f"{part}_num_heads")
            if dim % (4 * heads):
                raise InvalidInputError(f"network {part}_embed_dim is {dim}, expected a multiple of 4 x {heads} heads")
        if self.head_type not in HEADS:
            raise InvalidInputError(f"network head_type is {self.head_type!r}, expected one of {', '.join(HEADS)}")
        if self.head_type == "dpt" and (self.dec_depth < _MIN_DPT_DEPTH or self.patch_size != 16):
            raise InvalidInputError(
                f"network has a dpt head with dec_depth {self.dec_depth} and patch_size {self.patch_size}, "
                f"expected dec_depth >= {_MIN_DPT_DEPTH} and patch_size 16"
            )
        if len(self.img_size) != 2 or any(n < 1 or n % self.patch_size for n in self.img_size):
            raise InvalidInputError(
                f"network img_size is {self.img_size}, expected height and width in multiples of {self.patch_size}"
            )

    @property
    def hooks(self) -> tuple[int, ...]:
        """Levels that the head reads: 0 is the encoder's output, k that of decoder layer k."""
        depth = self.dec_depth
        return (0, depth // 2, 3 * depth // 4, depth) if self.head_type == "dpt" else (depth,)

    @property
    def size(self) -> int:
        """Longer side in pixels that the network was trained at."""
        return max(self.img_size)

    def as_arguments(self) -> dict[str, Any]:
        """The arguments as the hub's ``config.json`` has them; ``config_from_arguments`` reads them back."""
        sizes = {name: getattr(self, name) for name in (*_SIZES, *_DEFAULTED)}
        modes = {"depth_mode": ["exp", "-inf", "inf"], "conf_mode": ["exp", 1, "inf"], "output_mode": "pts3d"}
        return {"pos_embed": "RoPE100", "head_type": self.head_type, "img_size": list(self.img_size), **modes, **sizes}


def config_from_string(text: str) -> NetworkConfig:
    """Read the model string of a checkpoint, such as ``AsymmetricCroCo3DStereo(head_type='dpt', ...)``.

    Nothing is evaluated: the string must be one call of a known class with literal keyword arguments.

    Raises:
        InvalidInputError: for anything else.
    """
    if not isinstance(text, str) or len(text) > _MAX_STRING:
        raise InvalidInputError(
            f"model string is {str(text)[:40]!r}..., expected text of at most {_MAX_STRING} letters"
        )
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InvalidInputError(
            f"model string {text[:60]!r} cannot be read, expected Name(argument=value, ...)"
        ) from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise InvalidInputError(f"model string {text[:60]!r} cannot be read, expected Name(argument=value, ...)")
    if call.func.id not in _CLASSES:
        raise InvalidInputError(f"model string names {call.func.id}, expected {' or '.join(_CLASSES)}")
    names = [keyword.arg or "**" for keyword in call.keywords]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidInputError(f"model string gives {', '.join(repeated)} twice, expected each argument once")
    return config_from_arguments({k.arg or "**": _literal(k.value, text) for k in call.keywords})


def _literal(node: ast.expr, text: str) -> Any:
    """A number, text, truth value, None, ``inf``, or a tuple or list of them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, text)
        if isinstance(value, int | float):
            return -value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_literal(element, text) for element in node.elts)
    raise InvalidInputError(f"model string holds {ast.unparse(node)[:40]!r}, expected plain numbers and text")


def config_from_arguments(arguments: Mapping[str, Any]) -> NetworkConfig:
    """A configuration from the arguments of the published class.

    Raises:
        InvalidInputError: for an argument that is unknown or missing, or a value that these networks do not have.
    """
    given = {name: _plain(value) for name, value in arguments.items()}
    known = {*_FIXED, *_SIZES, *_DEFAULTED, *_WITHOUT_EFFECT, "head_type", "img_size"}
    unknown = sorted(set(given) - known)
    missing = sorted({*_SIZES, "head_type", "img_size"} - set(given))
    if unknown or missing:
        raise InvalidInputError(
            f"network description has unknown arguments [{', '.join(unknown[:4])}] and lacks "
            f"[{', '.join(missing[:4])}], expected those of {_CLASSES[0]}"
        )
    for name, allowed in _FIXED.items():
        if name in given and given[name] not in allowed:
            raise InvalidInputError(f"network {name} is {given[name]!r}, expected {' or '.join(map(repr, allowed))}")
    head = str(given["head_type"]).removeprefix("catmlp+")  # MASt3R: descriptors beside the same head
    sizes = {name: given[name] for name in (*_SIZES, *_DEFAULTED) if name in given}
    return NetworkConfig(head_type=head, img_size=_size(given["img_size"]), **sizes)


def _plain(value: Any) -> Any:
    """Lists as tuples, and infinity however JSON spells it."""
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    spelled = {"inf": math.inf, "Infinity": math.inf, "-inf": -math.inf, "-Infinity": -math.inf}
    return spelled.get(value, value) if isinstance(value, str) else value


def _size(value: Any) -> tuple[int, int]:
    sides = value if isinstance(value, tuple) else (value, value)
    if len(sides) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in sides):
        raise InvalidInputError(f"network img_size is {value!r}, expected (height, width) in pixels")
    return sides[0], sides[1]
