"""Entry points: reproduce, report, regress."""
