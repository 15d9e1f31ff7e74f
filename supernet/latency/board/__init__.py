"""Profiling boards over ssh or with a bundle that needs no torch."""
