"""How objects that pickle would send wrongly, or never twice the same, are sent.

Most modules have one `reduce_…` function, that answers as `__reduce__` does or with NotImplemented, and the functions
that undo it. Packages that are stored name these functions: they stay where they are.
"""
