"""What saving and loading cost, against peers and against what the machine can do. `make bench` runs all of it."""
