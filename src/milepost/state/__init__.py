"""The `state` room."""
