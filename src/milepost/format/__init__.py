"""The `format` room."""
