"""Starts reconx_node and, unless it runs elsewhere, the reconstruction server.

    ros2 launch reconx_ros reconx.launch.py image:=/camera/color/image_raw camera_info:=/camera/color/camera_info

Tethered: start this with server:=false on the robot, and tethered.launch.py on the computer with the GPU.
"""

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

SWITCH = ("true", "false")
# name, default, description, allowed values
ARGUMENTS = (
    ("params_file", None, "Parameter file of both nodes; config/ has one for each preset.", None),
    ("namespace", "", "Namespace of both nodes and of their topics.", None),
    ("use_sim_time", "false", "Take the time from /clock, as for bags and simulation.", SWITCH),
    ("log_level", "info", "Least severity that is logged.", ("debug", "info", "warn", "error", "fatal")),
    ("rviz", "false", "Start RViz with the package's configuration.", SWITCH),
    ("autostart", "true", "Configure and activate the nodes; false leaves it to a lifecycle manager.", SWITCH),
    ("server", "true", "Start the reconstruction server; false where it runs on another computer.", SWITCH),
    ("node", "true", "Start reconx_node; false on a computer that only reconstructs.", SWITCH),
    ("fastdds_profile", None, "Fast DDS profile, for large images; a profile that is set already is kept.", None),
    ("image", "image", "Topic of the camera's images, without the suffix of a transport.", None),
    ("camera_info", "camera_info", "Topic of the camera's calibration.", None),
    ("depth", "depth", "Topic of the depth images, used where ros.use_depth is true.", None),
    ("odom", "odom", "Topic of the odometry, used where ros.pose_source is odometry.", None),
)
REMAPPED = ("image", "camera_info", "depth", "odom")
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def shared(*names: str) -> PathJoinSubstitution:
    """Path of a file that the package installs."""
    return PathJoinSubstitution([FindPackageShare("reconx_ros"), *names])


def generate_launch_description() -> LaunchDescription:
    """The arguments, the Fast DDS profile for large images, both nodes and RViz."""
    defaults = {"params_file": shared("config", "default.yaml"), "fastdds_profile": shared("config", "fastdds.xml")}
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=defaults.get(name, default),
            description=description,
            **({"choices": list(choices)} if choices else {}),
        )
        for name, default, description, choices in ARGUMENTS
    ]
    profile = LaunchConfiguration("fastdds_profile")
    variables = [
        SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=profile)) for name in PROFILE_VARIABLES
    ]
    return LaunchDescription(
        [*arguments, *variables, our_node("reconx_node", "node"), our_node("reconstruction_server", "server"), rviz()]
    )


def our_node(executable: str, switch: str) -> Node:
    """One of the package's nodes, started where its switch is true."""
    return Node(
        package="reconx_ros",
        executable=executable,
        name=executable,
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                "ros.autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
            },
        ],
        remappings=[(name, LaunchConfiguration(name)) for name in REMAPPED],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        condition=IfCondition(LaunchConfiguration(switch)),
    )


def rviz() -> Node:
    """RViz, started where asked for."""
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", shared("config", "reconx.rviz")],
        parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
