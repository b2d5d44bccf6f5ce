"""The ROS 2 nodes: the only part of the package that imports rclpy or messages."""

import os

# OpenMP reads it once, when torch is loaded: idle threads then sleep, instead of taking a core from the other nodes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
