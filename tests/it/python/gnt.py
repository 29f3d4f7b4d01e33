"""Runs one of Ganeti's own gnt-* commands, unmodified but for where the socket is.

Arguments: SOCKET MODULE ARGS… (such as `gnt_job list`).
"""

import importlib
import sys

from common import pathutils

MODULE, ARGS = sys.argv[2], sys.argv[3:]

# The commands' own log: nobody reads it here.
pathutils.LOG_COMMANDS = "/dev/null"

sys.argv = [MODULE.replace("_", "-")] + ARGS
sys.exit(importlib.import_module("ganeti.client." + MODULE).Main())
