"""Report on runs: facts as plain data, and one page with charts."""
