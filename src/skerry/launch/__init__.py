"""Starting a run's processes on this machine, watching over them, striking them on request, and leaving none behind."""
