"""placeholder until the real file is written."""
