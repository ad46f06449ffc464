"""The `engine` room."""
