"""`supernet report`: what is known of runs, as plain data (`facts.py`), as a page (`page.py`)."""
