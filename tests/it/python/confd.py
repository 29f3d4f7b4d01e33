"""Every request type by Ganeti's own ConfD client, unmodified.

Arguments: KEYFILE PORT MASTER INSTANCE DOWN PEER… (the key's file; ConfD's port; the master's name; an instance's name, or `-` if
only the newest of the answers is of interest; how many of the peers are down; the candidates' addresses).
"""

import sys

sys.path.insert(0, "/usr/share/ganeti/3.0")

from ganeti import constants  # noqa: E402
from ganeti.confd import client as confd  # noqa: E402

KEYFILE, PORT, MASTER, INSTANCE, DOWN = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
PEERS = sys.argv[6:]
UP = len(PEERS) - DOWN
# Of the last answers.
SERIALS = []

with open(KEYFILE) as key:
    KEY = key.read()


def check(good, what):
    """Ends the script with `what` unless `good`."""
    if not good:
        raise SystemExit("FAILED: %s" % (what,))


def same(got, want, what):
    """Ends the script unless both are the same."""
    check(got == want, "%s: got %r, want %r" % (what, got, want))


def ask(kind, query=None):
    """The newest of the answers of all that are up; and all serials that came."""
    store = confd.StoreResultCallback()
    serials = []

    def both(up):
        if up.type == confd.UPCALL_REPLY:
            serials.append(up.server_reply.serial)

    filtering = confd.ConfdFilterCallback(store)

    def callback(up):
        both(up)
        filtering(up)

    client = confd.ConfdClient(KEY, list(PEERS), callback, port=PORT)
    request = confd.ConfdClientRequest(type=kind, query=query)
    client.SendRequest(request, coverage=-1, async_=False)
    # The client's own waiting wants more answers than there are when two of three are down.
    for _ in range(100):
        if len(serials) >= UP:
            break
        client.ReceiveReply(timeout=0.1)
    same(len(serials), UP, "answers to type %s" % kind)
    SERIALS[:] = sorted(serials)
    check(filtering.consistent.get(request.rsalt, False), "answers to type %s differ" % kind)
    have, up = store.GetResponse(request.rsalt)
    check(have, "no answer to type %s" % kind)
    return up.server_reply


def good(kind, query=None):
    """An answer, which must be one."""
    reply = ask(kind, query)
    same(reply.protocol, 1, "protocol")
    same(reply.status, constants.CONFD_REPL_STATUS_OK, "status of type %s (%r)" % (kind, reply.answer))
    return reply


def bad(kind, query, want):
    """An error, with this code or, for None, a text."""
    reply = ask(kind, query)
    same((reply.status, reply.serial), (constants.CONFD_REPL_STATUS_ERROR, 0), "status of a bad type %s" % kind)
    if want is None:
        check(isinstance(reply.answer, str), "type %s: %r is no text" % (kind, reply.answer))
    else:
        same(reply.answer, want, "error of type %s" % kind)


if INSTANCE == "-":
    # Ganeti's filter passes over a newer answer that says the same: this one changes.
    newest = good(constants.CONFD_REQ_CONFIG_QUERY, "/cluster/mac_prefix").serial
    print("serials %s, taken %s" % (" ".join(map(str, SERIALS)), newest))
    sys.exit(0)

UNKNOWN, ARGUMENT = constants.CONFD_ERROR_UNKNOWN_ENTRY, constants.CONFD_ERROR_ARGUMENT

same(good(constants.CONFD_REQ_PING).answer, 3000000, "ping")
same(good(constants.CONFD_REQ_NODE_ROLE_BYNAME, MASTER).answer, constants.CONFD_NODE_ROLE_MASTER, "role of the master")
bad(constants.CONFD_REQ_NODE_ROLE_BYNAME, "nosuch", None)
bad(constants.CONFD_REQ_NODE_ROLE_BYNAME, None, None)

master = good(constants.CONFD_REQ_CLUSTER_MASTER)
same(master.answer, MASTER, "master")
fields = [constants.CONFD_REQFIELD_NAME, constants.CONFD_REQFIELD_IP, constants.CONFD_REQFIELD_MNODE_PIP]
three = good(constants.CONFD_REQ_CLUSTER_MASTER, {constants.CONFD_REQQ_FIELDS: fields}).answer
same(three[0], MASTER, "name of the master")
check(three[2] in PEERS, "address of the master: %r" % three)
bad(constants.CONFD_REQ_CLUSTER_MASTER, "x", ARGUMENT)

nodes = good(constants.CONFD_REQ_NODE_PIP_LIST).answer
same(sorted(nodes), sorted(PEERS), "addresses of all nodes")
same(sorted(good(constants.CONFD_REQ_MC_PIP_LIST).answer), sorted(PEERS), "addresses of candidates")

ips = good(constants.CONFD_REQ_INSTANCES_IPS_LIST).answer
same(ips, ["198.51.100.7"], "addresses of instances")
same(good(constants.CONFD_REQ_INSTANCES_IPS_LIST, "nosuch").answer, [], "addresses on no link")
one = {constants.CONFD_REQQ_IP: ips[0]}
check(good(constants.CONFD_REQ_NODE_PIP_BY_INSTANCE_IP, one).answer in PEERS, "node of an instance's address")
bad(constants.CONFD_REQ_NODE_PIP_BY_INSTANCE_IP, {constants.CONFD_REQQ_IP: "192.0.2.9"}, UNKNOWN)
bad(constants.CONFD_REQ_NODE_PIP_BY_INSTANCE_IP, "x", ARGUMENT)
listed = good(constants.CONFD_REQ_NODE_PIP_BY_INSTANCE_IP, {constants.CONFD_REQQ_IPLIST: [ips[0], "192.0.2.9"]})
same([row[0] for row in listed.answer], [0, 1], "states of a list")
same(listed.answer[0][2], listed.serial, "serial in a list")

same(good(constants.CONFD_REQ_NODE_DRBD, MASTER).answer, [], "DRBD minors")
bad(constants.CONFD_REQ_NODE_DRBD, "nosuch", None)

# Ganeti's Python client leaves type 8 out of what it lets ask; its Haskell clients use it.
constants.CONFD_REQS = constants.CONFD_REQS | {constants.CONFD_REQ_NODE_INSTANCES}
first, second = good(constants.CONFD_REQ_NODE_INSTANCES, MASTER).answer
same(([one["name"] for one in first], second), ([INSTANCE], []), "instances of the master")
same(first[0]["osparams_private"], {}, "private parameters")
bad(constants.CONFD_REQ_NODE_INSTANCES, "nosuch", None)

disks = good(constants.CONFD_REQ_INSTANCE_DISKS, INSTANCE).answer
same(disks, [], "disks of a diskless instance")
bad(constants.CONFD_REQ_INSTANCE_DISKS, "nosuch", None)

name = good(constants.CONFD_REQ_CONFIG_QUERY, "/cluster/cluster_name").answer
same(name, "cluster.gantry.test", "a part of the configuration")
for pointer in ("", "/", "nosuch", "/cluster/nosuch"):
    bad(constants.CONFD_REQ_CONFIG_QUERY, pointer, ARGUMENT)

collectors = good(constants.CONFD_REQ_DATA_COLLECTORS).answer
same(collectors["cpu-avg-load"], {"active": True, "interval": 5000000}, "a collector")
print("answers of all types by %d of %d candidates, cluster serial %d" % (UP, len(PEERS), master.serial))
