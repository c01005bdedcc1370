"""Worlds: whole runs with every fault at once, from a seed. How to run, replay and shrink them: CONTRIBUTING.md, Tests."""
