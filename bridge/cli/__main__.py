# SPDX-License-Identifier: MIT
"""`python -m usrdrv`"""

import sys

from usrdrv.bridge.cli.main import main

sys.exit(main())
