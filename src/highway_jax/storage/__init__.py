"""The files of a run: records, tables, checkpoints, TensorBoard events."""
