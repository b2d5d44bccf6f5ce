"""``python -m reconx_ros.cli`` is ``reconx``."""

import sys

from reconx_ros.cli.main import main

sys.exit(main())
