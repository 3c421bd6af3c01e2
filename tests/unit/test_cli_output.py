"""What is printed: units, ages, columns, and foreign text that cannot steer a terminal."""

import json

import pytest

from node.cli import output


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "–"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (128 << 20, "128.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (3 << 60, "3072.0 PiB"),
    ],
)
def test_sizes_are_in_binary_units(count: int | None, shown: str) -> None:
    assert output.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (1_700_000_000, "2023-11-14T22:13:20Z (now)"),
        (1_699_999_999, "2023-11-14T22:13:19Z (1 second ago)"),
        (1_699_999_880, "2023-11-14T22:11:20Z (2 minutes ago)"),
        (1_700_000_000 - 7200, "2023-11-14T20:13:20Z (2 hours ago)"),
        (1_700_000_000 + 86_400 * 3, "2023-11-17T22:13:20Z (in 3 days)"),
    ],
)
def test_times_are_iso_8601_with_an_age_in_words(seconds: int, shown: str) -> None:
    assert output.when(seconds, now=1_700_000_000) == shown


@pytest.mark.parametrize("seconds", [(1 << 40) - 1, 1 << 56, (1 << 63) - 1])
def test_a_time_that_a_peer_named_and_no_calendar_has_stops_nothing(seconds: int) -> None:
    assert output.moment(seconds)
    assert output.when(seconds, now=1.0)


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("Trial 7", "Trial 7"),
        ("观测数据集", "观测数据集"),
        ("a\x1b[2Jb", "a�[2Jb"),
        ("a\x9b31mb", "a�31mb"),
        ("title\r\nOK  all is well", "title  OK  all is well"),
        ("abc\u202etxt.exe", "abc�txt.exe"),
        ("bell\x07 back\x08", "bell� back�"),
        ("\x1b]0;owned\x07", "�]0;owned�"),
        ("lone \udcff", "lone �"),
    ],
)
def test_foreign_text_cannot_steer_a_terminal(foreign: str, shown: str) -> None:
    assert output.safe(foreign) == shown


def test_foreign_text_cannot_steer_a_terminal_through_json(capsys: pytest.CaptureFixture[str]) -> None:
    title = "a\x1b[2J\x9b31m\u202e观测\U000e0001"
    output.document({"title": title})
    printed = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert "观测" in printed
    assert json.loads(printed) == {"title": title}


def test_json_documents_of_a_list_stand_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.documents([{"a": "x\ny"}, {"a": b"\x01\xff"}])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"a": "x\ny"}, {"a": "01ff"}]


def test_columns_are_aligned_for_characters_of_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME", "SIZE", "TITLE"), [("观测", "1 B", "x"), ("abcde", "10 B", "y\x1b")], right=(1,))
    assert capsys.readouterr().out.splitlines() == [
        "NAME   SIZE  TITLE",
        "观测    1 B  x",
        "abcde  10 B  y�",
    ]


def test_facts_leave_out_what_is_empty_and_indent_what_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    output.facts([("title", "T"), ("contact", ""), ("may fetch", "one\ntwo")], indent="  ")
    assert capsys.readouterr().out.splitlines() == ["  title      T", "  may fetch  one", "             two"]


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("观测数据", 5, "观测…"), ("观测数", 4, "观…")],
)
def test_a_line_is_cut_to_the_terminal(text: str, columns: int, shown: str) -> None:
    assert output.cut(text, columns) == shown
    assert output.width(shown) <= columns
