"""Text in Markdown."""

import re


def markdown_text(text: str) -> str:
    """Return text as Markdown shows it, whatever the name of a class or a group holds: one line, nothing marked up."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)
