"""The `catalog` room: what files are called, and which of them exist. No clock, no decisions, no tensors."""
