"""Hydra configuration of every experiment: the values, once, in YAML."""
