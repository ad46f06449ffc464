"""The `graphs` room."""
