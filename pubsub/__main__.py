"""`python -m pubsub`: the command line, where the installed command is not on the path."""

import sys

from pubsub.cli.app import main

sys.exit(main())
