"""Slow plain versions that tests hold the fast ones against."""
