import pytest

from hanse.errors import InvalidInput
from registry.duration import parse, to_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600), (" 5m ", 300), ("001h", 3600)],
)
def test_accepts(text, seconds):
    assert parse(text) == seconds
    assert parse(to_text(seconds)) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "24", "h", "0h", "000d", "-1h", "+1h", "1.5h", "1h30m", "24 h", "24H", "1y", "1000000s", "٣h", "1h\n1", "h24",
     "1e3s", "infd", "24hours"],
)  # fmt: skip
def test_rejects(text):
    with pytest.raises(InvalidInput, match="is not a duration: a number and s, m, h, d or w, for example 24h"):
        parse(text)
