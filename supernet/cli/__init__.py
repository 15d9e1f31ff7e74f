"""The commands and Hydra: the only place that knows typer, hydra and omegaconf."""
