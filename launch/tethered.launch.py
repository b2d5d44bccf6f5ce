"""The computer with the GPU: starts the reconstruction server for robots of the same ROS graph.

    here          ros2 launch reconx_ros tethered.launch.py peers:=robot.local
    on the robot  ros2 launch reconx_ros reconx.launch.py server:=false params_file:=.../config/tethered.yaml
                      fastdds_profile:=.../config/fastdds_tethered.xml

Both need the same ROS_DOMAIN_ID. Where multicast does not pass between them, as on many wireless networks, each names
the other: `peers` here, ROS_STATIC_PEERS on the robot (ROS 2 Iron and later; see docs/ros.md for Humble).
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

PEERS, RANGE = "ROS_STATIC_PEERS", "ROS_AUTOMATIC_DISCOVERY_RANGE"
PASSED_ON = ("params_file", "namespace", "log_level", "autostart", "use_sim_time", "fastdds_profile")


def shared(*names: str) -> PathJoinSubstitution:
    """Path of a file that the package installs."""
    return PathJoinSubstitution([FindPackageShare("reconx_ros"), *names])


def generate_launch_description() -> LaunchDescription:
    """The arguments, the variables for discovery, and the server of reconx.launch.py."""
    arguments = [
        DeclareLaunchArgument(
            "params_file",
            default_value=shared("config", "tethered.yaml"),
            description="Parameter file of the server; robots may use the same one.",
        ),
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=shared("config", "fastdds_tethered.xml"),
            description="Fast DDS profile, for messages between computers; a profile that is set already is kept.",
        ),
        DeclareLaunchArgument(
            "namespace",
            default_value="",
            description="Namespace of the server; robots name it in ros.server, as /NAMESPACE/reconstruction_server.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            description="Least severity that is logged.",
            choices=["debug", "info", "warn", "error", "fatal"],
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            description="Configure and activate the server; false leaves it to a lifecycle manager.",
            choices=["true", "false"],
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            description="Take the time from /clock, as for bags and simulation.",
            choices=["true", "false"],
        ),
        DeclareLaunchArgument(
            "peers",
            default_value=EnvironmentVariable(PEERS, default_value=""),
            description="Addresses of the robots, separated by semicolons, where multicast does not reach them.",
        ),
    ]
    variables = [
        SetEnvironmentVariable(PEERS, LaunchConfiguration("peers")),
        SetEnvironmentVariable(RANGE, EnvironmentVariable(RANGE, default_value="SUBNET")),
    ]
    passed_on = {name: LaunchConfiguration(name) for name in PASSED_ON}
    server = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(shared("launch", "reconx.launch.py")),
        launch_arguments={**passed_on, "node": "false", "server": "true"}.items(),
    )
    return LaunchDescription([*arguments, *variables, server])
