"""``python -m node.cli`` is ``hanse``."""

from node.cli import main

if __name__ == "__main__":
    main(prog_name="hanse")
