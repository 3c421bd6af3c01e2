import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils.utils import sqlite3

from hanse.errors import InvalidInput
from hanse.model.search import Query
from registry.index import Page, ask, expression, page_token, phrases, ranked, read_page_token, tokens

SECRET = bytes(32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Trial-7, phase_II", "trial 7 phase ii"),
        ("数据集", "数据 据集 集"),
        ("AI数据 2024", "ai 数据 据 2024"),
        ("数据，集", "数据 据 集"),
        ("Ärzte ﬁnden Straße", "arzte finden strasse"),
        ("データ", "データ".replace("データ", "デー ータ タ")),
        ("한국어", "한국 국어 어"),
        ("𠮷野家", "𠮷野 野家 家"),
        ("!?…", ""),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("heart", '"heart"*'),
        ("a heart", '"a" AND "heart"*'),
        ("数据集", '"数据 据集"'),
        ("数", '"数"*'),
        ("covid-19", '"covid 19"'),
        ('x" OR title:"y', '"x" AND "or" AND "title y"'),
        ("NEAR(a b)", '"near a" AND "b"'),
    ],
)
def test_expression(text, expected):
    made = expression(ask(Query(text=text)), {})
    if expected:
        assert made == f"({{title description subjects creators}} : ({expected}))"
    else:
        assert made.startswith("(facets : (x")


@given(st.text(max_size=60))
def test_whatever_is_asked_fts5_understands_it(text):
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE VIRTUAL TABLE s USING fts5(title, description, subjects, creators, facets, tokenize='ascii')"
    )
    connection.execute("INSERT INTO s VALUES (?, '', '', '', '')", (tokens(text),))
    try:
        question = ask(Query(text=text))
    except InvalidInput:
        assert not tokens(text)
        return
    rows = connection.execute("SELECT rowid FROM s WHERE s MATCH ?", (expression(question, {}),)).fetchall()
    assert bool(rows) == bool(phrases(text))
    connection.close()


def test_a_beginning_of_few_words_becomes_those_words():
    question = ask(Query(text="covid-19 tri"))
    made = expression(question, {"tri": ["trial", "trials"]})
    assert '"covid 19" AND ("trial" OR "trials")' in made
    assert '("tri")' in expression(question, {"tri": []})  # nothing begins so: it finds nothing


def ranking(text, *found):
    return ranked(ask(Query(text=text)), found)


def test_a_title_counts_more_than_any_repetition_elsewhere_and_of_equals_the_newest_is_first():
    often = ("other", "rain " * 50, "wet", "")
    title = ("rain", "", "", "")
    assert ranking("rain", (1, title), (2, often), (3, ("", "rain", "", "")), (4, title)) == [4, 1, 2, 3]


def test_words_and_beginnings_are_counted_as_they_are_matched():
    assert ranking("a", (1, ("a a a", "", "", "")), (2, ("aa", "", "", ""))) == [1, 2]
    assert ranking("tri", (1, ("atrium", "", "", "")), (2, ("trial", "", "", ""))) == [2, 1]
    assert ranking("big-tri", (1, ("big atrium", "", "", "")), (2, ("big trial", "", "", ""))) == [2, 1]


@given(st.text(alphabet="数据集中文字", min_size=1, max_size=8), st.data())
def test_every_substring_of_chinese_is_found(text, data):
    first = data.draw(st.integers(0, len(text) - 1))
    last = data.draw(st.integers(first + 1, len(text)))
    (phrase,) = phrases(text[first:last])
    indexed = tokens(text).split()
    assert any(
        indexed[i : i + len(phrase.tokens) - 1] == list(phrase.tokens[:-1])
        and indexed[i + len(phrase.tokens) - 1].startswith(phrase.tokens[-1])
        for i in range(len(indexed) - len(phrase.tokens) + 1)
    )


@pytest.mark.parametrize("text", ["!", " ?! ", "---", "…"])
def test_a_text_without_anything_to_look_for_is_refused(text):
    with pytest.raises(InvalidInput, match="neither a letter nor a digit"):
        ask(Query(text=text))


@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 32) - 1))
def test_page_tokens_come_back(as_of, offset):
    question = ask(Query(text="x"))
    assert read_page_token(page_token(Page(as_of, offset), question, SECRET), question, SECRET) == Page(as_of, offset)


def test_page_tokens_of_others_are_refused():
    question = ask(Query(text="x"))
    token = page_token(Page(5, 20), question, SECRET)
    data = bytearray(base64.urlsafe_b64decode(token))
    altered = []
    for i in range(len(data)):
        data[i] ^= 1
        altered.append(base64.urlsafe_b64encode(bytes(data)).decode())
        data[i] ^= 1
    for each in ("x", "", "é", token[:-4], token + "AAAA", token * 2, *altered):
        with pytest.raises(InvalidInput, match="not one of this search"):
            read_page_token(each, question, SECRET)
    for other in (Query(text="y"), Query(text="x", type="z"), Query(text="x", issued_from=1)):
        with pytest.raises(InvalidInput, match="not one of this search"):
            read_page_token(token, ask(other), SECRET)
    with pytest.raises(InvalidInput, match="not one of this search"):
        read_page_token(token, question, b"other")
