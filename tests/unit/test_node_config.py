"""node.toml: what it may say, and what is refused with the name of the key."""

from pathlib import Path

import pytest

from hanse.errors import HomeUnusable, InvalidInput
from hanse.model.address import Address
from node.config import Config


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("", Config()),
        ('listen = "127.0.0.1:7100"', Config(listen=Address("127.0.0.1", 7100))),
        ('listen = "[::1]:0"', Config(listen=Address("::1", 0))),
        (
            'listen = "0.0.0.0:7100"\nadvertise = "data.north.example:443"',
            Config(listen=Address("0.0.0.0", 7100), advertise=Address("data.north.example", 443)),
        ),
        ('metrics = "127.0.0.1:9100"', Config(metrics=Address("127.0.0.1", 9100))),
        ('log_level = "debug"\nreflection = true', Config(log_level="debug", reflection=True)),
        (
            "streams = 10\nstreams_per_peer = 10\ncalls_per_peer = 1\ndrain_seconds = 0",
            Config(streams=10, streams_per_peer=10, calls_per_peer=1, drain_seconds=0),
        ),
    ],
)
def test_what_is_accepted_and_survives_being_written(text: str, config: Config, tmp_path: Path) -> None:
    assert Config.parse(text) == config
    config.save(tmp_path / "node.toml")
    assert Config.load(tmp_path / "node.toml") == config


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert Config.load(tmp_path / "node.toml") == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed = 3", "'speed' is not a setting; there are: listen, advertise"),
        ("[listen]", 'listen is a text, "HOST:PORT"'),
        ("listen = 7100", 'listen is a text, "HOST:PORT"'),
        ('listen = "7100"', "listen: '7100' is not an address"),
        ('listen = "0.0.0.0:7100"', "needs advertise"),
        ('listen = "[::]:7100"', "needs advertise"),
        ('advertise = "a.example:0"', "advertise: others cannot dial port 0"),
        ('advertise = "0.0.0.0:7100"', "advertise: others cannot dial 0.0.0.0"),
        ('metrics = "0.0.0.0:9100"', "metrics are not protected"),
        ('metrics = "data.example:9100"', "metrics are not protected"),
        ("reflection = 1", "reflection is true or false"),
        ('log_level = "loud"', "log_level is one of debug, info"),
        ("streams = 0", "streams is a whole number from 1 to 4096"),
        ("streams = true", "streams is a whole number"),
        ('streams = "9"', "streams is a whole number"),
        ("streams = 2\nstreams_per_peer = 3", "streams_per_peer is more than streams"),
        ("drain_seconds = -1", "drain_seconds is a whole number"),
        ("drain_seconds = 1.5", "drain_seconds is a whole number"),
        ("listen = ", "not TOML"),
        ('listen = "a:1"\nlisten = "b:1"', "not TOML"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Config.parse(text)
    assert message in str(caught.value)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(HomeUnusable, match="not UTF-8"):
        Config.load(path)
    path.write_text("x = 1")
    with pytest.raises(HomeUnusable, match=r"node\.toml: 'x' is not a setting"):
        Config.load(path)
