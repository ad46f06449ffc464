"""Weights and state of other frameworks, in terms of PyTorch. Files and policies are not known here."""
