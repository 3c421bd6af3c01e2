"""SQLite, once, for every database of a home."""
