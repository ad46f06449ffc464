"""MindSpore's names and shapes of what PyTorch has under others, in both directions."""
