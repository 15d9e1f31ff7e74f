"""Writers of single layers and whole networks in the formats of runtimes."""
