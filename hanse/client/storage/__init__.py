"""What the consumer's side keeps: SQL lives here."""
