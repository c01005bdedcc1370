"""The decisions of Decoupled DiLoCo, without clock, socket, thread, randomness or tensor: events in, actions out."""
