from tests.docs.regenerate_stubs import differences


def test_the_committed_stubs_are_what_the_agreement_generates() -> None:
    assert differences() == []
