"""The shared resolver and its command ``hanse-registry``: holds signed metadata, and nobody's data."""

from hanse.rpc.environment import prepare

prepare()
