"""What the training of any network of this package shares: streams of examples, schedules, averages, states, logs."""
