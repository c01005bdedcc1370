"""A learner: the hook in the training process, and the agent process that speaks for it. The agent imports no torch."""
