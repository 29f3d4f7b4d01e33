"""Prints the serial numbers that the cluster object had, in the order of wconfd's log, from its first to its last.

Argument: the path of wconf.log.
"""

import json
import sqlite3
import sys

log = sqlite3.connect("file:%s?mode=ro" % sys.argv[1], uri=True, timeout=10)
for (body, ) in log.execute("SELECT body FROM log WHERE kind = 'batch' ORDER BY idx"):
    for change in json.loads(body)["changes"]:
        if change["kind"] == "cluster":
            print(change["body"]["serial_no"])
