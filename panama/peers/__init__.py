"""Other simulators that ours is held against, each a program of its own."""
