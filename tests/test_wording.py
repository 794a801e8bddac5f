"""Texts for people."""

import re

import pytest

from diffmedseg.wording import plain_pattern


@pytest.mark.parametrize(
    ("pattern", "name", "plain"),
    [
        ("images/(?P<id>.+)", "images/a", "images/<name>"),
        ("images/(?P<id>(?P<patient>[^_]+)_.+)", "images/p1_a", "images/<name>_<name>"),
        (r"BraTS2021_\d{5}", "BraTS2021_00001", "BraTS2021_<number>"),
        (r"(?P<above>.*/)?(?P<id>Image_(?P<patient>\d\d)[LR])", "Image_01L", "Image_<number>[LR]"),
        (r"(?P<part>Training|Test)/(?P<id>case\d+)", "Test/case1", "[Training|Test]/case<number>"),
        (
            r"(?P<id>(?:Training|Test)-400/(?P<name>[^/]+))/(?P=name)",
            "Test-400/a/a",
            "[Training|Test]-400/<name>/<name>",
        ),
        (r"(?!.*masks)(?P<id>[gn]\d{4})\.jpg", "g0001.jpg", "[gn]<number>.jpg"),
    ],
)
def test_a_pattern_is_shown_to_people_as_names_that_it_matches(pattern, name, plain):
    assert re.fullmatch(pattern, name)
    assert plain_pattern(pattern) == plain
    shown = re.escape(plain).replace("<number>", r"\d+").replace("<name>", ".+")
    shown = re.sub(r"\\\[([^]]*)\\\]", lambda part: _alternatives(part[1]), shown)
    assert re.fullmatch(shown, name)


def _alternatives(text: str) -> str:
    return f"(?:{text.replace(chr(92), '')})" if "|" in text else f"[{text}]"
