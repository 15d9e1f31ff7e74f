"""Data sets in three parts, batches, augmentation and preprocessing.

A data set `NAME` is a function of that name in the module `supernet/data/NAME.py`.
"""
