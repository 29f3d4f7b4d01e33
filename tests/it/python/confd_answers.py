"""What one ConfD answers to a list of questions, asked by Ganeti's own client.

Arguments: KEYFILE PORT PEER QUESTIONS (a JSON list of [type, query]). Prints a JSON list of [status, answer, serial], null for
silence.
"""

import json
import sys

sys.path.insert(0, "/usr/share/ganeti/3.0")

from ganeti import constants  # noqa: E402
from ganeti.confd import client as confd  # noqa: E402

KEYFILE, PORT, PEER, QUESTIONS = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
# The client leaves type 8 out of what it lets ask; Ganeti's Haskell clients use it.
constants.CONFD_REQS = constants.CONFD_REQS | {constants.CONFD_REQ_NODE_INSTANCES}

with open(KEYFILE) as key:
    KEY = key.read()


def ask(kind, query):
    """The answer to one question."""
    heard = []

    def callback(up):
        if up.type == confd.UPCALL_REPLY:
            heard.append([up.server_reply.status, up.server_reply.answer, up.server_reply.serial])

    client = confd.ConfdClient(KEY, [PEER], callback, port=PORT)
    client.SendRequest(confd.ConfdClientRequest(type=kind, query=query), coverage=-1, async_=False)
    for _ in range(20):
        if heard:
            return heard[0]
        client.ReceiveReply(timeout=0.1)
    return None


print(json.dumps([ask(kind, query) for kind, query in QUESTIONS]))
