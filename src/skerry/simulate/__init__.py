"""Fleets without tensors: goodput, rounds, bandwidth, scavenging, plans. Plain values in and out; files are the cli's."""
