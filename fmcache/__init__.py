"""fmcache."""
