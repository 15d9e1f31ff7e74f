"""What can be searched, and what it costs as `[blocks x ops]` matrices."""
