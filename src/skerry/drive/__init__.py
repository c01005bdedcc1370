"""The drivers of the cores: what all processes, virtual worlds and tests do with a core's events and actions. Stdlib only."""
