"""The command ``hanse``: one family of commands a file. They parse, call and print; decisions are made elsewhere."""

from node.cli.accepting import accept_registry
from node.cli.demonstrating import demo
from node.cli.evidence import evidence
from node.cli.fetching import fetch, verify
from node.cli.finding import resolve, search
from node.cli.frame import main
from node.cli.granting import list_grants, narrow, revoke
from node.cli.joining import join, rotate_key, serve, trust
from node.cli.monitoring import monitor
from node.cli.opening import leases, open_object
from node.cli.operating import audit, doctor, status
from node.cli.receipts import receipts, statement
from node.cli.requesting import approve, deny, request, requests
from node.cli.terms import terms
from node.cli.witnessing import witness
from node.cli.wrapping import add, check, list_objects, refresh, withdraw

__all__ = ["main"]

for each in (
    join, serve, add, terms, list_objects, status, check, refresh, withdraw, resolve, search, request, fetch, verify,
    open_object, leases,
    requests, approve, deny, list_grants, revoke, narrow, receipts, statement, audit, evidence, monitor, witness,
    accept_registry, trust,
    rotate_key, doctor, demo,
):  # fmt: skip
    main.add_command(each)
