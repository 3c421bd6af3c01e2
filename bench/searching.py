"""Searching as the registry grows: two words and a filter, of which there are few or many matches.

The texts are made of invented words that are as frequent as those of a language are (Zipf's law: the n-th is an n-th as
frequent as the first). A question takes two words and the type of a record that there is, so that frequent words are
asked for frequently; what a registry remembers of a question does not help, for none comes twice.
"""

import itertools
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench import ours
from bench.scale import Scale
from bench.table import Row, Run, Target, in_turns, say
from hanse.client.league import League
from hanse.model.identifier import Identifier, Prefix
from hanse.model.record import ObjectRecord
from hanse.model.search import Query

PREFIX = Prefix.parse("86.north")
WORDS = 50_000
TITLE, DESCRIPTION = 7, 40  # words
TYPES = ("Dataset", "Image", "Model", "Collection", "Text")
_QUESTIONS = 40  # a run
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_WORDS = tuple(
    "".join(letters)
    for letters in itertools.islice(itertools.product(_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS), WORDS)
)
_FREQUENT = tuple(itertools.accumulate(1 / place for place in range(1, len(_WORDS) + 1)))


def words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choices(_WORDS, cum_weights=_FREQUENT, k=count))


def record(id: Identifier, now: int) -> ObjectRecord:
    """The same for the same identifier."""
    chance, made = random.Random(id.key), ours.record(id, now)
    metadata = replace(made.metadata, title=words(chance, TITLE), description=words(chance, DESCRIPTION))
    return replace(made, type=chance.choice(TYPES), metadata=metadata)


def question(id: Identifier, chance: random.Random) -> Query:
    told = record(id, 0)
    first, second = chance.sample(f"{told.metadata.title} {told.metadata.description}".split(), 2)
    return Query(text=f"{first} {second}", type=told.type)


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    few, many = 10_000, scale.records[-1]
    with ExitStack() as stack:
        p95 = {size: _searching(stack, folder, size) for size in (few, many)}
        runs = in_turns(scale.runs, p95)
    how = (
        f"p95 of {_QUESTIONS} single questions a run, one at a time, each a new one; texts of "
        f"{TITLE + DESCRIPTION} words of {WORDS:,}, by Zipf's law; the words are those of a random record"
    )
    yield Row(
        f"search {many:,} records, two words and a filter",
        f"the same with {few:,}",
        Target(3.0, at_least=False),
        tuple(runs[many]),
        tuple(runs[few]),
        unit="ms",
        how=how,
    )
    yield Row("the same", "–", Target(50, at_least=False, unit="ms"), tuple(runs[many]), unit="ms", how=how)


def _searching(stack: ExitStack, folder: Path, size: int) -> Run:
    league = stack.enter_context(ours.league(folder / str(size)))
    node = league.join(str(PREFIX), serve=False)
    ids = ours.identifiers(PREFIX, 1, size)
    say(f"    putting {size:,} records into a registry")
    ours.fill(league.registry.home / "registry.db", ids, ours.identity(node).signing_key, record)
    league.registry.restart()
    client, chance = stack.enter_context(League(ours.identity(node))), random.Random(size)

    def p95() -> float:
        took = []
        for _ in range(_QUESTIONS):
            asked = question(chance.choice(ids), chance)
            began = time.perf_counter()
            found = client.search(asked)
            took.append(1000 * (time.perf_counter() - began))
            assert found.records
        return statistics.quantiles(took, n=20)[18]

    p95()
    return p95
