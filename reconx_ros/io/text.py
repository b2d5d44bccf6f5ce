"""Text as programs on any system write it: with a byte order mark, in UTF-8 or UTF-16, lines ended in any way."""

from __future__ import annotations

import codecs

_MARKS = (  # the longer ones first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded_text(data: bytes) -> str:
    """The text in a file's bytes without its byte order mark; what cannot be decoded becomes a replacement sign."""
    name = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    return data.decode(name, "replace")


def slashed(name: str) -> str:
    """A file name with the separators of this system, where another one's were written."""
    return name.replace("\\", "/")
