"""The process that a run lives in: other processes, signals, the terminal, compiled programs."""
