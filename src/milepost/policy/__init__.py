"""The `policy` room: is a save due, which checkpoints have expired. Facts in, decision out; no clock, no disk."""
