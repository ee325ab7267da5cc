"""Everything that is written to disk or read from it."""
