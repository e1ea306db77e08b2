"""``python -m getiaction_launch.cli`` is the command ``getiaction-launch``."""

import sys

from getiaction_launch.cli.main import main

sys.exit(main())
