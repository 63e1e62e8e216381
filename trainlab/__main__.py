"""`python -m trainlab`: the same as the command `trainlab`."""

import sys

from .cli import main

sys.exit(main())
