"""The trials of a config: cells, draws, halving, and which trials to train next."""
