from registry.answers import Answers


def test_given_too_many_entries_or_bytes_then_the_oldest_goes():
    answers = Answers(entries=3, size=10)
    for key in "abcd":
        answers.keep(key, b"12")
    assert [answers.get(key) for key in "abcd"] == [None, b"12", b"12", b"12"]
    answers.keep("e", b"12345678")
    assert [answers.get(key) for key in "bcde"] == [None, None, b"12", b"12345678"]
    answers.keep("f", b"x" * 11)
    assert len(answers) == 0


def test_given_a_newer_version_when_forgotten_then_it_is_asked_for_again():
    answers = Answers(size=4)
    answers.keep("a", b"old")
    answers.forget(["a", "unknown"])
    assert answers.get("a") is None
    answers.keep("a", b"new!")
    assert answers.get("a") == b"new!"
