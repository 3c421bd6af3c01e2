"""The consumer's side: resolve identifiers, fetch data, all verified. What the commands and the Python SDK share."""
