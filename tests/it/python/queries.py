"""Queries as Ganeti's client sends them.

Arguments: SOCKET CLUSTER MASTER INSTANCE NODES (names; of one instance; the number of nodes).
"""

import sys
import time

from common import check, client, constants, errors, raises, same

CLUSTER, MASTER, INSTANCE, NODES = sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])

# What gnt-cluster info reads; a missing key is a crash of the client (spec/luxi.md §6).
INFO_KEYS = """software_version protocol_version config_version os_api_version export_version vcs_version architecture
name master default_hypervisor enabled_hypervisors hvparams os_hvp beparams osparams ipolicy nicparams ndparams
diskparams candidate_pool_size max_running_jobs max_tracked_jobs mac_prefix master_netdev master_netmask
use_external_mip_script volume_group_name drbd_usermode_helper file_storage_dir shared_file_storage_dir
gluster_storage_dir maintain_node_health ctime mtime uuid tags uid_pool default_iallocator default_iallocator_params
reserved_lvs primary_ip_version prealloc_wipe_disks hidden_os blacklisted_os enabled_disk_templates install_image
instance_communication_network zeroing_image compression_tools enabled_user_shutdown enabled_data_collectors
data_collector_interval modify_ssh_setup ssh_key_type ssh_key_bits""".split()

HTOOLS = {
    "node": "name mtotal mnode mfree dtotal dfree ctotal cnos offline drained vm_capable ndp/spindle_count group.uuid "
            "tags ndp/exclusive_storage sptotal spfree ndp/cpu_speed",
    "instance": "name disk_usage be/memory be/vcpus status pnode snodes tags be/auto_balance disk_template "
                "be/spindle_use disk.sizes disk.spindles forthcoming",
    "group": "uuid name alloc_policy ipolicy tags",
}
DEFAULTS = {
    "node": "name dtotal dfree mtotal mnode mfree pinst_cnt sinst_cnt",
    "instance": "name hypervisor os pnode status oper_ram",
    "group": "name node_cnt pinst_cnt alloc_policy ndparams",
    "job": "id status summary",
    "lock": "name mode owner pending",
}


def cluster(cl):
    info = cl.QueryClusterInfo()
    missing = [key for key in INFO_KEYS if key not in info]
    same(missing, [], "missing keys of QueryClusterInfo")
    same((info["name"], info["master"]), (CLUSTER, MASTER), "names")
    check(info["default_hypervisor"] in constants.HYPER_TYPES, "htools know %r" % info["default_hypervisor"])
    values = cl.QueryConfigValues(["cluster_name", "master_node", "drain_flag", "watcher_pause", "nosuch"])
    same(values, [CLUSTER, MASTER, False, None, None], "QueryConfigValues")
    until = int(time.time()) + 3600
    same(cl.SetWatcherPause(until), until, "SetWatcherPause")
    same(cl.QueryConfigValues(["watcher_pause"]), [until], "watcher_pause")
    same(cl.SetWatcherPause(None), None, "SetWatcherPause off")
    same(cl.QueryConfigValues(["watcher_pause"]), [None], "watcher_pause")
    same(cl.QueryTags(constants.TAG_CLUSTER, ""), sorted(info["tags"]), "tags")
    same(cl.QueryTags(constants.TAG_NODE, MASTER), [], "tags of a node")
    err = raises(errors.OpPrereqError, cl.QueryTags, constants.TAG_NODE, "nosuch.gantry.test")
    same(err.args[1], errors.ECODE_NOENT, "ecode")


def fields(cl):
    for kind in sorted(constants.QR_VIA_LUXI):
        every = cl.QueryFields(kind, None).fields
        check(every, "%s has fields" % kind)
        for field in every:
            check(field.name and field.title and field.doc and field.kind in constants.QFT_ALL,
                  "definition of %s of %s: %r" % (field.name, kind, field.ToDict()))
        named = cl.QueryFields(kind, [every[0].name, "nosuch"]).fields
        same([f.kind for f in named], [every[0].kind, constants.QFT_UNKNOWN], "kinds of two fields of %s" % kind)
        # Every field of every row has the kind that was promised, or a status that says why not.
        answer = cl.Query(kind, [f.name for f in every], None)
        for row in answer.data:
            same(len(row), len(every), "cells of a row of %s" % kind)
            for (status, value), field in zip(row, every):
                check(status in constants.RS_ALL, "status %r of %s" % (status, field.name))
                check(status != constants.RS_UNKNOWN, "%s of %s is unknown" % (field.name, kind))
                if status == constants.RS_NORMAL and value is not None:
                    check(isinstance(value, PYTHON[field.kind]),
                          "%s of %s is %r, not %s" % (field.name, kind, value, field.kind))


PYTHON = {
    "text": str, "bool": bool, "number": int, "float": (int, float), "unit": int, "timestamp": (int, float),
    "other": object,
}


def lists(cl):
    for table in (DEFAULTS, HTOOLS):
        for kind, names in table.items():
            names = names.split()
            answer = cl.Query(kind, names, None)
            same([f.name for f in answer.fields], names, "fields of %s in the order asked for" % kind)
            unknown = [f.name for f in answer.fields if f.kind == constants.QFT_UNKNOWN]
            same(unknown, [], "unknown fields of %s" % kind)
    nodes = cl.Query("node", HTOOLS["node"].split(), None).data
    same(len(nodes), NODES, "nodes")
    for row in nodes:
        for name, (status, value) in zip(HTOOLS["node"].split(), row):
            if name in ("sptotal", "spfree"):
                continue
            same(status, constants.RS_NORMAL, "%s of node %s" % (name, row[0]))
            check(value is not None, "%s of node %s is null" % (name, row[0]))
    names = [row[0][1] for row in nodes]
    same(names, sorted(names), "nodes are sorted")
    (row, ) = cl.Query("instance", ["name", "status", "oper_state"], ["==", "name", INSTANCE]).data
    same([value for _, value in row], [INSTANCE, "running", True], "a running instance")


def filters(cl):
    def names(kind, qfilter):
        return [row[0][1] for row in cl.Query(kind, ["name"], qfilter).data]

    short = MASTER.split(".", 1)[0]
    same(names("node", ["==", "name", short]), [MASTER], "a short name")
    same(names("node", ["|", ["==", "name", MASTER]]), [MASTER], "a list of names")
    same(names("node", ["&", ["?", "master"], ["!", ["?", "offline"]]]), [MASTER], "booleans")
    same(names("node", ["=~", "name", "^%s" % short]), [MASTER], "a regular expression")
    same(names("node", ["&", ["=[]", "pinst_list", "nosuch"]]), [], "a list that contains")
    check(INSTANCE in names("instance", ["!=", "name", "x"]), "not equal")
    answer = cl.Query("node", ["name", "nosuch"], ["==", "name", MASTER])
    same(answer.data, [[[0, MASTER], [1, None]]], "an unknown field")
    raises(errors.ParameterError, cl.Query, "node", ["name"], ["==", "nosuch", "x"])
    raises(errors.ParameterError, cl.Query, "node", ["name"], ["&", ["==", "mtotal", "x"]])
    err = raises(errors.OpPrereqError, cl.Query, "node", ["name"], ["|", ["==", "name", "nosuch"]])
    same(err.args[1], errors.ECODE_NOENT, "ecode")


def classic(cl):
    same(cl.QueryNodes([MASTER], ["name", "master"], False), [[MASTER, True]], "one node")
    same(len(cl.QueryNodes([], ["name"], False)), NODES, "all nodes")
    same(cl.QueryNodes(["nosuch"], ["name"], False), [], "an unknown node is an empty answer")
    same(cl.QueryInstances([INSTANCE], ["name", "hypervisor", "nosuch_not"][:2], False), [[INSTANCE, "fake"]], "instance")
    same(cl.QueryGroups([], ["name", "node_cnt"], False), [["default", NODES]], "groups")
    same(cl.QueryNetworks([], ["name"], False), [], "networks")
    same(cl.QueryFilters(None, ["uuid"]), [], "filters")
    for call, args in ((cl.QueryNodes, ([], ["nosuch"], False)), (cl.QueryGroups, ([], ["nosuch"], False)),
                       (cl.QueryInstances, ([], ["nosuch"], False)), (cl.QueryNodes, ([], ["name"], True))):
        err = raises(errors.OpPrereqError, call, *args)
        same(err.args[1], errors.ECODE_INVAL, "ecode of %r" % (err.args,))


def main():
    for step in (cluster, fields, lists, filters, classic):
        print(step.__name__, flush=True)
        step(client())


main()
