"""Media types of file names; they are the same on every machine."""

import pytest

from hanse.model.record import check_media_type
from node.manifesting import _TYPES, media_type


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.csv", "text/csv"),
        ("a.CSV", "text/csv"),
        ("folder.csv/a", "application/octet-stream"),
        ("folder/a.json", "application/json"),
        ("a.tar.gz", "application/gzip"),
        ("a.parquet", "application/vnd.apache.parquet"),
        ("a.unknown", "application/octet-stream"),
        ("README", "application/octet-stream"),
        (".csv", "application/octet-stream"),
        ("a.", "application/octet-stream"),
        ("数据.txt", "text/plain"),
    ],
)
def test_a_name_has_its_media_type(name: str, wanted: str) -> None:
    assert media_type(name) == wanted


def test_every_type_is_one() -> None:
    for kind in _TYPES.values():
        check_media_type(kind)
