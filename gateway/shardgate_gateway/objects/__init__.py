"""Buckets and their objects, without HTTP.

Whatever reads, writes, lists or deletes an object goes through `Objects` (`service.py`): HTTP handlers, and work in the
background. It takes a bucket and a key, never a request. `Ownership` decides which gateway an object belongs to.
"""
