"""The node that reconstructs: an action, its feedback, pictures on request."""
