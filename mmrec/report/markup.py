"""HTML and SVG put together from parts: whatever is not markup is escaped."""

from __future__ import annotations

import html

_VOID = ("img", "meta")  # elements without content and end tag


class Html(str):
    """Markup; any other string is text and is escaped where it is used."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | int | float | None) -> Html:
    """One element.

    Args:
        name: Tag name.
        content: Text, which is escaped, and markup.
        attributes: ``class_`` is written ``class``, ``stroke_width`` ``stroke-width``; None leaves one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*content)}</{name}>")


def join(*content: str) -> Html:
    """Text, which is escaped, and markup, one after the other."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in content))
