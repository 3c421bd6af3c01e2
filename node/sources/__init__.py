"""Where the bytes of elements really are. Known to the node alone."""
