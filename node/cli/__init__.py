"""The command ``hanse``: one family of commands a file. They parse, call and print; decisions are made elsewhere."""

from node.cli import demonstrating, fetching, finding, joining, operating, wrapping
from node.cli.frame import main

__all__ = ["main"]

for family in (joining, wrapping, finding, fetching, operating, demonstrating):
    for each in family.COMMANDS:
        main.add_command(each)
