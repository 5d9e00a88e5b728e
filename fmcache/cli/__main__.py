"""``python -m fmcache.cli``."""

from fmcache.cli import main

main()
