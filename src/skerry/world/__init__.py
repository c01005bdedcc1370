"""The world that learners live in, without clock, socket or tensor: the faults that strike them."""
