"""The `catalog` room."""
