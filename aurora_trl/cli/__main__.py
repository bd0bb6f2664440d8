"""`python -m aurora_trl.cli`, where `aurora` is not on the path, and under `torchrun`."""

import sys

from .main import main

sys.exit(main())
