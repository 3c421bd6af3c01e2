"""terms.json: which conditions are within which, purposes and what includes them, duties. SPEC.md section 15."""

from dataclasses import replace
from typing import Any

from hanse.errors import HanseError
from hanse.model import purposes as vocabulary
from hanse.model.purposes import Purpose
from hanse.model.terms import Conditions, Duty, DutyKind, Operation
from hanse.wire_papers import encode_conditions, purpose_out
from tests.vectors.fixed import T0

DAY = 86_400
DELETE = Duty(DutyKind.DELETE_AFTER, 30 * DAY)
CITE = Duty(DutyKind.ATTRIBUTE, text="North Hospital")
KEEP = Duty(DutyKind.DO_NOT_PASS_ON)
OTHER = Duty(DutyKind.OTHER, text="tell us what you found")


def terms() -> dict[str, Any]:
    return {"is_within": [_pair(*each) for each in _pairs()], "purposes": _purposes(), "duties": _duties()}


def _pairs() -> list[tuple[str, Conditions, Conditions]]:
    """(what is compared, narrower or not, wider)"""
    free = Conditions()
    bound = Conditions(
        purposes=(Purpose.parse("health-research"),),
        valid_from=T0,
        valid_until=T0 + 100 * DAY,
        max_fetches=20,
        max_bytes=1 << 30,
        duties=(DELETE, CITE),
    )
    describe = Conditions(operations=(Operation.DESCRIBE,))
    narrower = replace(
        bound,
        purposes=(Purpose.parse("disease-specific-research"),),
        valid_from=T0 + DAY,
        valid_until=T0 + 10 * DAY,
        max_fetches=1,
        max_bytes=1,
        duties=(Duty(DutyKind.DELETE_AFTER, DAY), CITE, OTHER),
    )
    handed = Conditions(pass_on=True)
    return [
        ("equal, nothing restricted", free, free),
        ("equal, everything restricted", bound, bound),
        ("restricted within free", bound, free),
        ("free within restricted", free, bound),
        ("narrower in every part", narrower, bound),
        ("wider in every part", bound, narrower),
        ("fewer operations", describe, free),
        ("more operations", free, describe),
        ("a narrower purpose", replace(free, purposes=(Purpose.parse("disease-specific-research"),)),
         replace(free, purposes=(Purpose.parse("general-research-use"),))),
        ("a broader purpose", replace(free, purposes=(Purpose.parse("general-research-use"),)),
         replace(free, purposes=(Purpose.parse("disease-specific-research"),))),
        ("one purpose of two", replace(free, purposes=(Purpose("audit of 2026"),)),
         replace(free, purposes=(Purpose("audit of 2026"), Purpose("teaching")))),
        ("one purpose more", replace(free, purposes=(Purpose("audit of 2026"), Purpose("teaching"))),
         replace(free, purposes=(Purpose("audit of 2026"),))),
        ("words that differ by a letter", replace(free, purposes=(Purpose("teaching "[:-1] + "s"),)),
         replace(free, purposes=(Purpose("teaching"),))),
        ("no purpose named", free, replace(free, purposes=(Purpose("teaching"),))),
        ("begins a second earlier", replace(free, valid_from=T0 - 1), replace(free, valid_from=T0)),
        ("ends a second later", replace(free, valid_until=T0 + 1), replace(free, valid_until=T0)),
        ("no end", free, replace(free, valid_until=T0)),
        ("no beginning", free, replace(free, valid_from=T0)),
        ("one fetch more", replace(free, max_fetches=21), replace(free, max_fetches=20)),
        ("fetches unlimited", free, replace(free, max_fetches=20)),
        ("one byte more", replace(free, max_bytes=11), replace(free, max_bytes=10)),
        ("bytes unlimited", free, replace(free, max_bytes=10)),
        ("bytes limited, fetches not", replace(free, max_bytes=10), replace(free, max_bytes=10, max_fetches=20)),
        ("a duty more", replace(free, duties=(DELETE, CITE, KEEP)), replace(free, duties=(DELETE, CITE))),
        ("a duty less", replace(free, duties=(CITE,)), replace(free, duties=(DELETE, CITE))),
        ("deleted sooner", replace(free, duties=(Duty(DutyKind.DELETE_AFTER, DAY),)), replace(free, duties=(DELETE,))),
        ("deleted later", replace(free, duties=(Duty(DutyKind.DELETE_AFTER, 31 * DAY),)),
         replace(free, duties=(DELETE,))),
        ("attributed to another", replace(free, duties=(Duty(DutyKind.ATTRIBUTE, text="Acme"),)),
         replace(free, duties=(CITE,))),
        ("duties in another order", replace(free, duties=(CITE, DELETE)), replace(free, duties=(DELETE, CITE))),
        ("not to be passed on, of what may be", free, handed),
        ("to be passed on, of what may not be", handed, free),
    ]  # fmt: skip


def _pair(case: str, narrow: Conditions, wide: Conditions) -> dict[str, Any]:
    return {
        "case": case,
        "conditions": conditions_parts(narrow),
        "wider": conditions_parts(wide),
        "within": narrow.is_within(wide),
    }


def conditions_parts(conditions: Conditions) -> dict[str, Any]:
    """What is restricted, for reading, and the message ``Conditions``."""
    told: dict[str, Any] = {"operations": [each.value for each in conditions.operations]}
    told["purposes"] = [purpose_out(each) for each in conditions.purposes]
    for name in ("valid_from", "valid_until", "max_fetches", "max_bytes"):
        told[name] = getattr(conditions, name) or 0
    told["duties"] = [str(each) for each in conditions.duties]
    told["pass_on"] = conditions.pass_on
    return {name: value for name, value in told.items() if value} | {"serialized": encode_conditions(conditions).hex()}


def _purposes() -> dict[str, Any]:
    iris = list(vocabulary.NAMES)
    texts = [
        "clinical-care-use",
        "Academic Research",
        "academic_research",
        "https://w3id.org/dpv#AcademicResearch",
        "http://purl.obolibrary.org/obo/DUO_0000007",
        "dpv:CommercialResearch",
        "DUO:0000042",
        "dpv:NoSuchPurpose",
        "audit of 2026",
        "Audit of 2026",
        "教学",
        "x" * 200,
    ]
    rejected = ["", " teaching", "teaching ", "two\nlines", "a\ttab", "a\u0007bell", "x" * 201]
    return {
        "vocabulary": [
            {
                "name": name,
                "iri": Purpose(name).iri,
                "broader": [each.name for each in Purpose(name).with_broader[1:]],
            }
            for name in iris
        ],
        "accepted": [{"input": text, "written": purpose_out(Purpose.parse(text))} for text in texts],
        "rejected": [{"input": text, "message": _refusal(Purpose.parse, text)} for text in rejected],
    }


def _duties() -> dict[str, Any]:
    texts = [
        "delete-after=30d",
        "delete-after=36h",
        "delete-after=720h",
        "delete-after=2w",
        "delete-after=90m",
        "delete-after=1s",
        "attribute=North Hospital",
        "attribute=a=b",
        "do-not-pass-on",
        "other=tell us what you found",
        "other=告诉我们",
    ]
    rejected = [
        "",
        "delete-after",
        "delete-after=",
        "delete-after=0d",
        "delete-after=-1d",
        "delete-after=30",
        "delete-after=30 days",
        "delete-after=1e3s",
        "attribute",
        "attribute=",
        "attribute=a\u0007bell",
        "do-not-pass-on=please",
        "Do-Not-Pass-On",
        "forget",
        "other=" + "x" * 4097,
    ]
    return {
        "accepted": [
            {
                "input": text,
                "kind": duty.kind.value,
                "seconds": duty.seconds,
                "text": duty.text,
                "written": str(duty),
                "enforced": duty.enforcement.value,
            }
            for text, duty in zip(texts, map(Duty.parse, texts), strict=True)
        ],
        "rejected": [{"input": text, "message": _refusal(Duty.parse, text)} for text in rejected],
    }


def _refusal(parse: Any, text: str) -> str:
    try:
        parse(text)
    except HanseError as error:
        return str(error)
    raise AssertionError(f"{text!r} was accepted")
