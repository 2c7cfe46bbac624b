"""Native sources of the package, and what loads those that have no module of their own."""
