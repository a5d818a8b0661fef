# SPDX-License-Identifier: MIT
"""`python -m usrdrv`"""

import sys

from usrdrv.bridge.cli import main

sys.exit(main())
