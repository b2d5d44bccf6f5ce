"""Which points of two images are the same: a Protocol, a registry, and the matchers that need no weights."""
