"""Milepost: checkpoints for PyTorch. (The door; filled in last.)"""
