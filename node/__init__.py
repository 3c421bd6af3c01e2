"""An organization's node: wraps its data, publishes its records, serves those it authorized."""

from hanse.rpc.environment import prepare

prepare()
