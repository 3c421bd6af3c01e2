"""What a node keeps. The only place of a node with SQL."""
