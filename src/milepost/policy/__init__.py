"""The `policy` room."""
