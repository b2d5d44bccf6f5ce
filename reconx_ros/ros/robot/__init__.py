"""The node on the robot: inputs, keyframes, mapping thread, outputs, services."""
