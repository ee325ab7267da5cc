"""The process of a run: other processes, signals, terminal output, compiled programs."""
