"""For all tests: no example of a property fails for the time it took, which another process may have needed."""

from hypothesis import HealthCheck, settings

settings.register_profile("skerry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("skerry")
