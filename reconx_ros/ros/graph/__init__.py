"""What every node needs of the ROS graph: lifecycle, parameters, QoS, transforms, diagnostics."""
