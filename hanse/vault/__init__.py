"""Leased data: kept sealed, readable until its time, and then gone, with a signed word of it to the owner."""
