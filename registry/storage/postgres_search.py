"""A record's tokens as PostgreSQL's tsvector, and a question as its tsquery. Pure.

Both are written out here, from the tokens of registry.index, and parsed by no text search configuration: so every
database gives the same answers, whatever languages it was set up with. Weight A is the title, B the subjects, C the
creators, D the description; a facet stands among them with a sign in front that no word has, and without a position.

    vector(document)   # "'=x1f…' 'trial':1A 'of':2A 'rain':5"
    query(question)    # "('heart' <-> 'tri':*) & '=x1f…'"

PostgreSQL keeps positions up to 16,383 and 255 of one word: what comes after is found as a word, but in no phrase.
Source: https://www.postgresql.org/docs/current/textsearch-limitations.html
"""

from registry.index import BETWEEN, EVERYTHING, TEXT_COLUMNS, WEIGHTS, Document, Phrase, Question

_LAST_POSITION = 16_383
_WORD_BYTES = 2_040  # of a lexeme; what is asked for is never so long
_BETWEEN_COLUMNS = 1  # positions, so that no phrase goes from one into the next
_SIGN = "="
_LETTERS = {"title": "A", "subjects": "B", "creators": "C", "description": ""}

_weight = dict(zip(TEXT_COLUMNS, WEIGHTS, strict=False))
# D, C, B, A: at most 1 each.
RANK_WEIGHTS = [
    _weight[column] / max(WEIGHTS) for column in ("description", "creators", "subjects", "title")
]  # fmt: skip


def vector(document: Document) -> str:
    """In tsvector's syntax."""
    # Twice the same facet would be one lexeme anyway.
    parts = [f"'{_SIGN}{facet}'" for facet in document.facets.split() if facet != EVERYTHING]
    position = 0
    for column, letter in _LETTERS.items():
        for word in getattr(document, column).split():
            position += 1
            if word == BETWEEN:
                continue
            place = f":{position}{letter}" if position < _LAST_POSITION else ""
            parts.append(f"{_quoted(word)}{place}")
        position += _BETWEEN_COLUMNS
    return " ".join(parts)


def query(question: Question) -> str | None:
    """In tsquery's syntax; None asks for everything."""
    parts = [_phrase(each) for each in question.phrases]
    parts += [f"'{_SIGN}{facet}'" for facet in question.facets if facet != EVERYTHING]
    return " & ".join(parts) or None


def ranked_by(question: Question) -> str:
    """What decides about the order: the phrases alone."""
    return " & ".join(_phrase(each) for each in question.phrases)


def _phrase(phrase: Phrase) -> str:
    words = [_quoted(token) for token in phrase.tokens]
    if phrase.open_ended:
        words[-1] += ":*"
    return f"({' <-> '.join(words)})"


def _quoted(token: str) -> str:
    # Tokens are letters and digits; this holds for whatever they will be.
    cut = token if len(token) < _WORD_BYTES // 4 else token.encode()[:_WORD_BYTES].decode(errors="ignore")
    return "'" + cut.replace("\\", "\\\\").replace("'", "''") + "'"
