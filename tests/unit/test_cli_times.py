"""Times to come and sizes, as users type them."""

import time

import click
import pytest

from node.cli.times import parse_size, parse_until


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("30d", 2_592_000), ("4w", 2_419_200), ("0s", 0)]
)
def test_a_span_counts_from_now(text: str, seconds: int) -> None:
    before = int(time.time())
    assert before <= parse_until(text) - seconds <= int(time.time())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-06-30", 1_814_313_600),
        ("2027-06-30T14:00:00Z", 1_814_364_000),
        ("2027-06-30T14:00:00", 1_814_364_000),
        ("2027-06-30T14:00:00+02:00", 1_814_356_800),
    ],
)
def test_a_time_is_in_utc_unless_it_says_otherwise(text: str, moment: int) -> None:
    assert parse_until(text) == moment


@pytest.mark.parametrize(
    "text", ["", "soon", "-1d", "30", "1.5h", "30 d", "9999999d", "2027-13-01", "2027-06-31", "1y"]
)
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 2h, 30d") as refused:
        parse_until(text, "--from")
    assert refused.value.param_hint == "'--from'"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("500", 500),
        ("10B", 10),
        ("1k", 1024),
        ("10 MB", 10 << 20),
        ("10MiB", 10 << 20),
        ("1.5GiB", 3 << 29),
        ("2t", 2 << 40),
        (" 1PiB ", 1 << 50),
    ],
)
def test_a_size_has_binary_units(text: str, count: int) -> None:
    assert parse_size(text, "--max-bytes") == count


@pytest.mark.parametrize("text", ["", "0", "0GiB", "-1", "1e9", "ten", "10 Gib/s", "1.2345G", "99999999999P", "GB"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 500MiB"):
        parse_size(text, "--max-bytes")
