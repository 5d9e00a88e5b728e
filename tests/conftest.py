"""Property tests try the same examples each time, so that a red run is red for its change and not by chance.

Random ones, to look for faults: ``pytest --hypothesis-profile=explore tests/property``. What they find becomes an
``@example``.
"""

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("same")
