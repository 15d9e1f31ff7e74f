"""Search over architectures: algorithms that see only an integer encoding, scores and costs."""
