"""What is searched in a record, and what a question means. Pure.

Texts become tokens: words folded to lower case without accents; runs of scripts that are written without
spaces become overlapping pairs of characters and the last character alone, so that every substring of two
and more is a phrase and every single character is the beginning of a token. What a filter compares becomes
one opaque token each, in a column of its own. Nothing of a user's text is ever FTS5 syntax: only letters and
digits that went through ``tokens`` reach an expression, each phrase in quotation marks.

    document(record).title             # "数据 据集 集"
    expression(ask(Query(text="数据")))  # '{title description subjects creators} : ("数据")'
"""

import base64
import binascii
import hmac
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from hanse.errors import InvalidInput
from hanse.model.record import ObjectRecord
from hanse.model.search import Query

# Changes when the tokens of a text change: the index is then built anew.
VERSION = 1

# Han, kana, Bopomofo, Hangul, Yi, Thai, Lao, Tibetan, Myanmar, Khmer.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3005-\u3007\u3021-\u3029\u3031-\u3035"
    "\u3041-\u30ff\u3100-\u318f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_RUNS = re.compile(f"([{_UNSPACED}]+)|((?:(?![{_UNSPACED}])[^\\W_])+)")
_ASCII_WORDS = re.compile(r"[a-z0-9]+")
_PREFIX_CHARACTERS = 3  # a shorter last word is meant as it is

TEXT_COLUMNS = ("title", "description", "subjects", "creators")
WEIGHTS = (10.0, 2.0, 5.0, 3.0)


@dataclass(frozen=True, slots=True)
class Document:
    """What the index keeps of a record: tokens with spaces between them."""

    title: str
    description: str
    subjects: str
    creators: str
    facets: str

    @property
    def texts(self) -> tuple[str, ...]:
        """In the order of TEXT_COLUMNS."""
        return self.title, self.description, self.subjects, self.creators


@dataclass(frozen=True, slots=True)
class Phrase:
    """Tokens in a row; if ``open_ended``, the last is the beginning of one."""

    tokens: tuple[str, ...]
    open_ended: bool


@dataclass(frozen=True, slots=True)
class Question:
    """All phrases must be in the texts, all facets in the facets. Times are Unix seconds, inclusive."""

    phrases: tuple[Phrase, ...]
    facets: tuple[str, ...]
    issued_from: int | None
    issued_until: int | None
    fingerprint: bytes


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(c for c in folded if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", bare)


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    if text.isascii():
        for word in _ASCII_WORDS.findall(text.lower()):
            yield word, False
        return
    for match in _RUNS.finditer(_fold(text)):
        yield match[0], match[1] is not None


def tokens(text: str) -> str:
    """What is indexed of a text."""
    if text.isascii():
        return " ".join(_ASCII_WORDS.findall(text.lower()))
    found: list[str] = []
    for run, unspaced in _runs(text):
        if unspaced:
            found.extend(run[i : i + 2] for i in range(len(run)))
        else:
            found.append(run)
    return " ".join(found)


def phrases(text: str) -> tuple[Phrase, ...]:
    """What a user's text asks for: each word, each run of an unspaced script, each group without spaces in a row."""
    found: list[Phrase] = []
    for chunk in text.split():
        words: list[str] = []
        for run, unspaced in _runs(chunk):
            if not unspaced:
                words.append(run)
                continue
            if words:
                found.append(Phrase(tuple(words), open_ended=False))
                words = []
            pairs = tuple(run[i : i + 2] for i in range(len(run) - 1)) or (run,)
            found.append(Phrase(pairs, open_ended=len(run) == 1))
        if words:
            found.append(Phrase(tuple(words), len(words[-1]) >= _PREFIX_CHARACTERS))
    return tuple(dict.fromkeys(found))


@lru_cache(4096)
def _facet(kind: str, value: str) -> str:
    return "x" + sha256(f"{kind}\0{value.casefold().strip()}".encode(errors="replace")).hexdigest()[:20]


def _bare_media_type(text: str) -> str:
    return text.partition(";")[0]


# A token that nobody can ask for: no phrase goes from one subject into the next.
BETWEEN = "\u00a6"

EVERYTHING = _facet("record", "")


def document(record: ObjectRecord) -> Document:
    """What is indexed of a record."""
    metadata = record.metadata
    facets = [EVERYTHING, _facet("owner", str(record.id.prefix)), _facet("access", record.access.mode.value)]
    if record.type:
        facets.append(_facet("type", record.type))
    facets.extend(_facet("subject", each) for each in metadata.subjects)
    facets.extend(_facet("media", _bare_media_type(each)) for each in record.summary.media_types)
    return Document(
        tokens(metadata.title),
        tokens(metadata.description),
        f" {BETWEEN} ".join(tokens(each) for each in metadata.subjects),
        f" {BETWEEN} ".join(tokens(each) for each in metadata.creators),
        " ".join(facets),
    )


def ask(query: Query) -> Question:
    """What a query asks. Raises InvalidInput when its text has nothing that can be looked for."""
    wanted = phrases(query.text)
    if query.text.strip() and not wanted:
        raise InvalidInput("the search text has neither a letter nor a digit")
    named = (
        ("owner", str(query.owner) if query.owner else ""),
        ("type", query.type),
        ("subject", query.subject),
        ("media", _bare_media_type(query.media_type)),
        ("access", query.access.value if query.access else ""),
    )
    facets = tuple(_facet(kind, value) for kind, value in named if value)
    everything = (wanted, facets, query.issued_from, query.issued_until, VERSION)
    return Question(wanted, facets, query.issued_from, query.issued_until, sha256(repr(everything).encode()).digest())


def ranked(question: Question, found: Iterable[tuple[int, Sequence[str]]]) -> list[int]:
    """Positions of what matches, the best first; of equals the newest. ``found``: with the texts in their columns.

    Each phrase counts as much as the column in which it is, and twice as much at the most if it is there often: the
    length of a text does not matter, nor how frequent a word is in others, which would have to be counted.
    """
    wanted = [f" {'  '.join(each.tokens)}{'' if each.open_ended else ' '}" for each in question.phrases]
    scores = []
    for position, texts in found:
        score = 0.0
        for text, weight in zip(texts, WEIGHTS, strict=False):
            spaced = f" {text} ".replace(" ", "  ")  # neighbours must not share one
            for phrase in wanted:
                count = spaced.count(phrase)
                score += weight * count / (count + 1)
        scores.append((-score, -position))
    return [-position for _, position in sorted(scores)]


def _phrase(phrase: Phrase, completions: Mapping[str, Sequence[str]]) -> str:
    *whole, last = phrase.tokens
    if not phrase.open_ended or last not in completions:
        return f'"{" ".join(phrase.tokens)}"' + ("*" if phrase.open_ended else "")
    return "(" + " OR ".join(f'"{" ".join((*whole, each))}"' for each in completions[last] or (last,)) + ")"


def expression(question: Question, completions: Mapping[str, Sequence[str]]) -> str:
    """The question in FTS5's syntax.

    ``completions``: all words that begin with the last one of an open-ended phrase, for those of which they are few.
    That takes no more time than a word does; for a beginning, FTS5 joins all that there is of every word.
    """
    parts = []
    if question.phrases:
        texts = " AND ".join(_phrase(each, completions) for each in question.phrases)
        parts.append(f"({{{' '.join(TEXT_COLUMNS)}}} : ({texts}))")
    facets = question.facets or (() if question.phrases else (EVERYTHING,))
    if facets:
        parts.append(f"(facets : ({' AND '.join(facets)}))")
    return " AND ".join(parts)


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page begins: after ``offset`` matches of those that were there at position ``as_of``."""

    as_of: int
    offset: int


def page_token(page: Page, question: Question, secret: bytes) -> str:
    """Opaque; good for the same question only."""
    payload = page.as_of.to_bytes(8, "big") + page.offset.to_bytes(4, "big")
    return base64.urlsafe_b64encode(payload + _seal(payload, question, secret)).decode()


def read_page_token(token: str, question: Question, secret: bytes) -> Page:
    """Raises InvalidInput."""
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    payload = data[:12]
    if len(data) != 28 or not hmac.compare_digest(data[12:], _seal(payload, question, secret)):
        raise InvalidInput("this page token is not one of this search: begin with the first page")
    return Page(int.from_bytes(payload[:8], "big"), int.from_bytes(payload[8:], "big"))


def _seal(payload: bytes, question: Question, secret: bytes) -> bytes:
    return hmac.digest(secret, payload + question.fingerprint, "sha256")[:16]
