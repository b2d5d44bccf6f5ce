"""A simulated robot in a procedural room in front of the real nodes.

ros2 launch reconx_ros demo.launch.py rviz:=true
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The nodes of reconx.launch.py and the simulated robot."""
    included = PathJoinSubstitution([FindPackageShare("reconx_ros"), "launch", "reconx.launch.py"])
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                description="Start RViz with the package's configuration.",
                choices=["true", "false"],
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(included),
                launch_arguments={"rviz": LaunchConfiguration("rviz")}.items(),
            ),
            Node(package="reconx_ros", executable="sim_robot", name="sim_robot", output="screen"),
        ]
    )
