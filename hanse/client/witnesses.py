"""Which witnesses this home requires: the table ``[witnesses]`` of its node.toml. SPEC.md section 24.3.

    [witnesses]
    require = 2
    keys = ["86.north.witness.hanse.internal+1f2e3d4c+BAX…", …]

Read by everything that follows the registry's log, whoever started it; changed by ``hanse witness``.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from hanse.cosigning import Policy, WitnessKey
from hanse.errors import HomeUnusable, InvalidInput
from hanse.files import storage_errors, write_durably

FILE = "node.toml"
_TABLE = re.compile(r"^[ \t]*\[[ \t]*witnesses[ \t]*\].*?(?=^[ \t]*\[|\Z)", re.MULTILINE | re.DOTALL)


def parse(key: str, table: Any) -> Policy:
    """Raises InvalidInput."""
    if not isinstance(table, dict) or set(table) - {"require", "keys"}:
        raise InvalidInput(f"{key} is a table of require and keys")
    require, keys = table.get("require", 0), table.get("keys", [])
    if isinstance(require, bool) or not isinstance(require, int):
        raise InvalidInput(f"{key}.require is a whole number")
    if not isinstance(keys, list) or not all(isinstance(each, str) for each in keys):
        raise InvalidInput(f"{key}.keys is a list of witnesses' keys in quotes")
    return Policy(require, tuple(map(WitnessKey.parse, keys))).check()


def load(path: Path) -> Policy:
    """What the file requires; nothing if there is none. Raises HomeUnusable."""
    try:
        return _table(_settings(_text(path)))
    except InvalidInput as error:
        raise HomeUnusable(f"{path}: {error}") from None


def save(path: Path, policy: Policy) -> None:
    """Puts the table in the place of the one before; the rest stays as it was written. Raises HomeUnusable."""
    before = _text(path)
    rest = _TABLE.sub("", before).rstrip()
    listed = "".join(f"  {json.dumps(str(each), ensure_ascii=False)},\n" for each in policy.keys)
    table = f"[witnesses]\nrequire = {policy.require}\nkeys = [\n{listed}]\n" if policy.keys else ""
    text = "\n\n".join(filter(None, (rest, table))).rstrip() + "\n"
    try:
        was, now = _settings(before), _settings(text)
        if _table(now) != policy or {**was, "witnesses": 0} != {**now, "witnesses": 0}:
            raise InvalidInput("the table [witnesses] stands there in a way that cannot be changed: do it by hand")
    except InvalidInput as error:
        raise HomeUnusable(f"{path}: {error}") from None
    write_durably(path, text.encode(), 0o600)


def _table(settings: dict[str, Any]) -> Policy:
    return parse("witnesses", settings["witnesses"]) if "witnesses" in settings else Policy()


def _settings(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"this is not TOML: {error}") from None


def _text(path: Path) -> str:
    with storage_errors(str(path)):
        try:
            return path.read_text()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            raise HomeUnusable(f"{path} is not UTF-8 text") from None
