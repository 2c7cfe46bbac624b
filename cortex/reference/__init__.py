"""Slow, plain versions of what is fast elsewhere; tests hold the fast ones against them."""
