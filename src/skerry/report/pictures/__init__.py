"""The pictures of what was reckoned: sweeps of the lab, simulations, plans. Each file draws one kind."""
