"""3D reconstruction from a few views: a library without ROS, and the nodes that run it on a robot."""

import pkgutil

# The generated messages (reconx_ros.msg, .srv, .action) are installed beside an installed copy of this package.
# With this they are found too when the package itself is imported from the source folder.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"
