"""How large each figure is measured, in its short and its long form."""

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Scale:
    """Counts and bytes; ``runs`` of each variant, ``large_runs`` of what takes long."""

    name: str
    runs: int
    bulk_bytes: int = GIB
    small_files: int = 10_000
    small_file_bytes: int = 10 * 1024
    unary_calls: int = 40_000
    batches: int = 2_000
    records: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    latency_calls: int = 1_000
    published: int = 50_000
    mirrored: int = 1_000_000
    appended: int = 50_000
    asked: int = 200
    delivered: int = 6_000
    years: int = 3
    decided: int = 50_000
    add_bytes: int = 4 * GIB
    add_files: int = 100_000
    add_file_bytes: int = 4 * 1024
    served_bytes: int = 10 * GIB
    large_runs: int = 5


LONG = Scale("long", runs=7)
SHORT = Scale(
    "short",
    runs=5,
    unary_calls=10_000,
    batches=500,
    records=(1_000, 100_000),
    latency_calls=300,
    published=10_000,
    mirrored=50_000,
    appended=20_000,
    asked=60,
    delivered=2_000,
    years=1,
    decided=20_000,
    add_files=20_000,
    served_bytes=2 * GIB,
    large_runs=3,
)
