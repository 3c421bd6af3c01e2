import pytest

from hanse.errors import HomeUnusable
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from registry.config import Config, load


def test_given_what_init_writes_then_it_is_read_back(tmp_path):
    config = Config('A "league"\n数据', Prefix("86"), Address("127.0.0.1", 0), (Address("::1", 7400),))
    path = tmp_path / "registry.toml"
    path.write_text(config.to_toml())
    assert load(path) == config


def test_given_every_setting_then_it_is_read(tmp_path):
    path = tmp_path / "registry.toml"
    path.write_text(
        'name = "x"\nroot = "86"\nlisten = "[::]:1"\nadvertise = "a:1"\nreflection = true\nmetrics = "127.0.0.1:0"\n'
        'tiles = "127.0.0.1:7480"\npublic_entries = true\n'
        'calls_per_second = 1e9\ncalls_burst = 5\n[referrals]\n"10" = ["b:2"]\n'
    )
    config = load(path)
    assert config.advertise == (Address("a", 1),)
    assert config.referrals == {Prefix("10"): (Address("b", 2),)}
    assert (config.tiles, config.public_entries) == (Address("127.0.0.1", 7480), True)
    assert (config.calls_per_second, config.calls_burst, config.reflection) == (1e9, 5, True)


def test_when_nothing_is_advertised_then_members_dial_what_is_listened_on():
    assert Config("", Prefix("86"), Address("10.0.0.1", 0)).advertised(77) == (Address("10.0.0.1", 77),)
    told = Config("", Prefix("86"), Address("10.0.0.1", 0), (Address("x.org", 0),)).advertised(77)
    assert told == (Address("x.org", 77),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'root' is missing"),
        ('root = "UPPER CASE"', "is not a prefix"),
        ("root = 86", "'root' is a text"),
        ('root = "86"\nlisten = "here"', "is not an address"),
        ('root = "86"\nadvertise = 5', "'advertise' is a list"),
        ('root = "86"\nadvertise = [5]', "'advertise' is a text"),
        ('root = "86"\nreflection = "yes"', "true or false"),
        ('root = "86"\npublic_entries = 1', "'public_entries' is true or false"),
        ('root = "86"\ntiles = 7480', "'tiles' is a text"),
        ('root = "86"\ntiles = "here"', "is not an address"),
        ('root = "86"\ncalls_per_second = 0', "above 0"),
        ('root = "86"\ncalls_burst = true', "above 0"),
        ('root = "86"\nreferrals = 3', "is a table"),
        ('root = "86"\nport = 3', "unknown setting 'port'"),
        ("root = ", "does not make sense"),
        ('root = "\xff"', "does not make sense"),
    ],
)
def test_rejects(tmp_path, text, said):
    path = tmp_path / "registry.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(HomeUnusable, match=said):
        load(path)
