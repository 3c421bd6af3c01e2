"""The shared resolver and its command ``hanse-registry``: holds signed metadata, and nobody's data."""
