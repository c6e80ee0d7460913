"""Work that a gateway does of its own accord, under one supervisor."""
