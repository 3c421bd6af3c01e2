"""The tables of evidence.db."""
