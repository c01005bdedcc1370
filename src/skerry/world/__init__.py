"""Runs in virtual time, without clock, socket or tensor: the learners' world (speeds, links, faults) and its driver."""
