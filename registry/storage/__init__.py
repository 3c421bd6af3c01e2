"""What the registry keeps, behind one Protocol: the only place with SQL."""
