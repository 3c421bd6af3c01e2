"""Hanse against what a user would otherwise pick, side by side in one run: ``python -m bench --short``."""
