"""Images in memory, their splits, batches and preprocessing.

A data set `NAME` is a function of that name in the module `supernet/data/NAME.py`.
"""
