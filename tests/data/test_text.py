import pandas as pd
import pytest

from mmrec.data.text import clean_text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  two   words\tand\nlines ", "two words and lines"),
        ("<p>One</p><p>Two</p>", "One Two"),
        ("<b>Bo</b>ld and <SPAN class='x'>in</SPAN>line", "Bold and inline"),
        ("a<br/>b<br>c <> d", "a b c d"),
        ("<a href='http://x.org/?a=1'>link</a>", "link"),
        ("Tom &amp; Jerry &rsquo;s&nbsp;5&plusmn;1", "Tom & Jerry ’s 5±1"),
        ("&lt;p&gt;Hi&lt;/p&gt; &amp;quot;you&amp;quot;", 'Hi "you"'),
        ("x<script>if (a<b) run('<i>');</script>y", "x y"),
        ("x<style type='t'>p {a: b}</style>y", "x y"),
        ("<!--[if lte IE 8]>old<![endif]-->new<!--[if gt IE 8]><!--> too<!-- <![endif]-->", "new too"),
        ("bell\x07 \ufeffmark\u200b", "bell mark"),
        ("中文\u3000和 emoji 👍🏽", "中文 和 emoji 👍🏽"),
    ],
)
def test_markup_goes_and_words_stay(raw: str, clean: str) -> None:
    assert clean_text(pd.Series([raw])).tolist() == [clean]


@pytest.mark.parametrize(
    "fact", ["humidity < 80% or > 5", "CC <= 3mA, CV < 20mV", "<li.Fits Most Chargers", "1 <2> 3", "<3 you"]
)
def test_inequalities_and_broken_tags_are_no_tags(fact: str) -> None:
    assert clean_text(pd.Series([fact])).tolist() == [fact]


def test_empty_and_missing_become_missing() -> None:
    cleaned = clean_text(pd.Series(["", "  ", None, float("nan"), "<br>", "&nbsp;", "x"], dtype=object))
    assert cleaned.isna().tolist() == [True] * 6 + [False]


def test_index_and_length_are_kept() -> None:
    values = pd.Series(["<b>a</b>", "b", "&lt;"], index=[7, 3, 5])
    assert clean_text(values).to_dict() == {7: "a", 3: "b", 5: "<"}


def test_a_column_without_markup_or_of_missing_values() -> None:
    assert clean_text(pd.Series([None, None], dtype=object)).isna().all()
    assert len(clean_text(pd.Series([], dtype=object))) == 0
