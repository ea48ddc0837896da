"""Text as it comes, made readable: markup, entities, control characters and white space."""

from __future__ import annotations

import html
import re

import pandas as pd

_COMMENT = re.compile(r"<!--.*?-->|<!\[[^>]*>", re.DOTALL)
_CODE = re.compile(r"<(script|style)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
# Only names that HTML has: "< 80% humidity" and "CC < 30mA, 5V > x" are product facts, not tags.
_INLINE = re.compile(
    r"</?(?:a|abbr|b|big|em|font|i|mark|s|small|span|strong|sub|sup|tt|u)(?:\s[^<>]*)?/?>", re.IGNORECASE
)
_BLOCK = re.compile(
    r"</?(?:address|article|aside|blockquote|body|br|button|caption|center|code|col|dd|div|dl|dt|embed|"
    r"fieldset|figure|footer|form|h[1-6]|head|header|hr|html|iframe|img|input|label|li|link|main|meta|nav|"
    r"object|ol|option|p|param|pre|section|select|source|table|tbody|td|textarea|tfoot|th|thead|title|tr|"
    r"ul|video)(?:\s[^<>]*)?/?>|</?>",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")
_SPACE = re.compile(r"\s+")
_ENTITY_ROUNDS = 2  # "&amp;quot;" is a frequent accident of shops, deeper nesting is not


def clean_text(values: pd.Series[str]) -> pd.Series[str]:
    """Text without markup, entities, control characters and repeated white space; empty becomes missing.

    Tags are removed when HTML knows their name, so that ``< 80 %`` stays. Entities are resolved, and tags
    that come to light by that are removed as well.
    """
    text = values.astype(object).where(values.notna(), "").astype(str).astype(object)
    text = _strip_tags(text)
    for _ in range(_ENTITY_ROUNDS):
        entities = text.str.contains("&", regex=False)
        if entities.any():
            text = text.where(~entities, text[entities].map(html.unescape))
    text = _strip_tags(text)
    text = text.str.replace(_CONTROL, "", regex=True).str.replace(_SPACE, " ", regex=True).str.strip()
    return text.where(text != "", None)


def _strip_tags(text: pd.Series[str]) -> pd.Series[str]:
    tagged = text.str.contains("<", regex=False)
    if not tagged.any():
        return text
    bare = text[tagged]
    for pattern, replacement in ((_COMMENT, " "), (_CODE, " "), (_INLINE, ""), (_BLOCK, " ")):
        bare = bare.str.replace(pattern, replacement, regex=True)
    return text.where(~tagged, bare)
