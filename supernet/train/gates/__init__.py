"""Training path gates on validation images while the weights stay frozen."""
