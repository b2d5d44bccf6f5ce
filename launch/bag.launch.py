"""A recorded bag in front of both nodes, with simulated time.

    ros2 launch reconx_ros bag.launch.py bag:=kitchen image:=/camera/image_raw camera_info:=/camera/camera_info

`reconx replay BAG` needs no ros2 bag, loses no frame and scores the map; this is for watching one's own graph.
"""

from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.conditions import IfCondition, UnlessCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

SWITCH = ["true", "false"]
PASSED_ON = ("params_file", "image", "camera_info", "depth", "odom", "server", "rviz", "log_level")


def shared(*names: str) -> PathJoinSubstitution:
    """Path of a file that the package installs."""
    return PathJoinSubstitution([FindPackageShare("reconx_ros"), *names])


def described(name: str, default: object, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
    """One argument with a default."""
    more = {"choices": choices} if choices else {}
    return DeclareLaunchArgument(name, default_value=default, description=description, **more)


def generate_launch_description() -> LaunchDescription:
    """The arguments, the nodes of reconx.launch.py and `ros2 bag play` with /clock."""
    arguments = [
        DeclareLaunchArgument("bag", description="Folder of the bag, or one .mcap or .db3 file."),
        described("rate", "1.0", "Playing speed; 1 is real time."),
        described("delay", "5.0", "Time that the nodes get to start before the bag does [s]."),
        described("loop", "false", "Play the bag again and again; the map stays when time jumps back.", SWITCH),
        described("params_file", shared("config", "default.yaml"), "Parameter file of both nodes."),
        described("image", "image", "Topic of the images in the bag, without the suffix of a transport."),
        described("camera_info", "camera_info", "Topic of the calibration in the bag."),
        described("depth", "depth", "Topic of the depth images, used where ros.use_depth is true."),
        described("odom", "odom", "Topic of the odometry, used where ros.pose_source is odometry."),
        described("server", "true", "Start the reconstruction server; false where it runs elsewhere.", SWITCH),
        described("rviz", "false", "Start RViz with the package's configuration.", SWITCH),
        described("log_level", "info", "Least severity that is logged.", ["debug", "info", "warn", "error", "fatal"]),
    ]
    nodes = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(shared("launch", "reconx.launch.py")),
        launch_arguments={
            **{name: LaunchConfiguration(name) for name in PASSED_ON},
            "use_sim_time": "true",
        }.items(),
    )
    return LaunchDescription([*arguments, nodes, player([], UnlessCondition), player(["--loop"], IfCondition)])


def player(extra: list[str], condition: type) -> ExecuteProcess:
    """`ros2 bag play`, started where the argument `loop` and the condition agree."""
    words = ["ros2", "bag", "play", LaunchConfiguration("bag"), "--clock", "50", *extra]
    pace = ["--rate", LaunchConfiguration("rate"), "--delay", LaunchConfiguration("delay")]
    return ExecuteProcess(cmd=[*words, *pace], output="screen", condition=condition(LaunchConfiguration("loop")))
