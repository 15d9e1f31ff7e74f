"""Latency on devices: tables, profiling, runtimes, boards."""
