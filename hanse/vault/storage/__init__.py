"""The tables of leases, in evidence.db."""
