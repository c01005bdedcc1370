"""What is done to tensors: merge accumulators, the outer optimizer, and the Task protocol that lab and recipe share."""
