"""The ``reconx`` command: one module per subcommand."""
