"""Verbs: stateless functions on core's nouns, batched by leading dimensions."""
