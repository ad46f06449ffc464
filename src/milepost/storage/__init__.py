"""The `storage` room."""
