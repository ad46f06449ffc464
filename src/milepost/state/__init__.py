"""Torch objects <-> named arrays and JSON. Files are not known here."""
