"""The `checkpoint` room: values and networks into one file, and back. Runs and policies are not known here."""
