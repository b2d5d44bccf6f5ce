"""What robot and server exchange, and how a job runs. Needs no ROS."""
