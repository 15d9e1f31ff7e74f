"""Networks: elastic blocks, the supernet, path gates, extraction, foreign weights."""
