"""Seeded scripts that make what the pack ships: the synthetic people and the demo base. Not used at run time."""
