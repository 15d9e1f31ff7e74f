"""A finished subnet: its folder and certificate, verification, export, pruning."""
