"""The drivers of the two cores: each in one file, for real processes, virtual time and tests alike. Standard library only."""
