"""The trials of a config: grid, random draws, successive halving, planning of batches."""
