"""What a run leaves on disk: the event tape, the snapshot, the exported model, the lines of figures."""
