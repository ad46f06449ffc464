"""Moves bytes between the format and a storage. What an array means, and torch, are not known here."""
