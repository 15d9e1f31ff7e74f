"""Files in and out: written whole, read within limits, locked; the reporter."""
