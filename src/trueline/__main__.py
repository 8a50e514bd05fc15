"""`python -m trueline` is `trueline`."""

import sys

from trueline.cli.entry import main

sys.exit(main())
