"""How long things take on a device: layer keys, tables, profiling, runtimes."""
