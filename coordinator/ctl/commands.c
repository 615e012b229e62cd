/* SPDX-License-Identifier: Apache-2.0 */
/* What farpoolctl can be told to do. */
#include <string.h>

#include "coordinator/ctl/ctl.h"

const fp_ctl_command fp_ctl_commands[] = {
    {.name = "status",
     .help = "who leads, all nodes, all partitions, and what is stalled",
     .method = "status",
     .run = fp_ctl_show},
    {.name = "top",
     .help = "the same, each second anew; q ends it",
     .method = "status",
     .run = fp_ctl_top},
    {.name = "node list",
     .help = "the nodes that have ever joined, and what they are used for",
     .method = "node.list",
     .run = fp_ctl_show},
    {.name = "node drain",
     .argument = "NODE",
     .help = "hands the node's duties over to others; then it may be stopped",
     .method = "node.drain",
     .member = "name",
     .options = " wait ",
     .run = fp_ctl_change,
     .done = "Node %s is being drained."},
    {.name = "node undrain",
     .argument = "NODE",
     .help = "it may be given duties again",
     .method = "node.undrain",
     .member = "name",
     .run = fp_ctl_change,
     .done = "Node %s may be given duties."},
    {.name = "node remove",
     .argument = "NODE",
     .help = "forgets a node that is lost or drained and has no duties",
     .method = "node.remove",
     .member = "name",
     .options = " yes ",
     .run = fp_ctl_change,
     .danger = "Node %s will be forgotten.",
     .done = "Node %s is forgotten."},
    {.name = "partition create",
     .argument = "NAME",
     .help = "a new partition on nodes of the coordinator's choice",
     .method = "partition.create",
     .member = "name",
     .options =
         " owner space slab memnodes log-copies log-quorum log-ring storage-quorum when-lost wait ",
     .run = fp_ctl_change,
     .done = "Partition %s is created."},
    {.name = "partition list",
     .help = "the partitions, their owners and nodes",
     .method = "partition.list",
     .run = fp_ctl_show},
    {.name = "partition move",
     .argument = "PARTITION",
     .help = "gives it to another compute node",
     .method = "partition.move",
     .member = "partition",
     .options = " to wait ",
     .run = fp_ctl_change,
     .done = "Partition %s is being moved."},
    {.name = "partition read-only",
     .argument = "PARTITION",
     .help = "its owner refuses changes as soon as it is told",
     .method = "partition.read_only",
     .member = "partition",
     .run = fp_ctl_change,
     .done = "Partition %s is to be read-only: its owner is told."},
    {.name = "partition read-write",
     .argument = "PARTITION",
     .help = "its owner takes changes again as soon as it is told",
     .method = "partition.read_only",
     .member = "partition",
     .run = fp_ctl_change,
     .done = "Partition %s may be changed."},
    {.name = "partition delete",
     .argument = "PARTITION",
     .help = "deletes it, its log and its pages, on all nodes; its number is not used again",
     .method = "partition.delete",
     .member = "partition",
     .options = " yes wait ",
     .run = fp_ctl_change,
     .danger = "Partition %s and all that is in it will be deleted.",
     .done = "Partition %s is being deleted."},
    {.name = "route",
     .argument = "PARTITION",
     .help = "who owns the partition, and where its program is asked",
     .method = "route",
     .member = "partition",
     .run = fp_ctl_show},
    {.name = "failover",
     .argument = "PARTITION",
     .help = "takes the partition from its owner, who need not answer, and gives it to another one",
     .method = "failover",
     .member = "partition",
     .options = " to from-storage yes wait ",
     .run = fp_ctl_change,
     .danger = "Commits of partition %s that were acknowledged in memory only may be lost, and its "
               "owner has to be dead: nothing stops it.",
     .done = "Partition %s is taken from its owner."},
    {.name = "balance",
     .help =
         "one step towards nodes that are used evenly, after others have joined; none while\n"
         "partitions are on their way. With --wait: all steps, each when the one before is done",
     .method = "balance",
     .options = " wait ",
     .run = fp_ctl_balance},
    {.name = "events",
     .help = "what the coordinators have decided, and why; one line each",
     .method = "events",
     .options = " from follow ",
     .run = fp_ctl_events},
    {.name = "doctor",
     .help = "what keeps this machine from being a node, and how to mend it; asks no coordinator",
     .options = " memory numa-node volume verbs ",
     .run = fp_ctl_doctor},
};
const unsigned fp_ctl_command_count = sizeof fp_ctl_commands / sizeof fp_ctl_commands[0];

const fp_ctl_command *fp_ctl_find(const char *first, const char *second)
{
    for (unsigned i = 0; i < fp_ctl_command_count; i++) {
        const char *name = fp_ctl_commands[i].name;
        size_t len = strcspn(name, " ");
        if (strlen(first) != len || strncmp(name, first, len) != 0)
            continue;
        if (!name[len] || (second && !strcmp(name + len + 1, second)))
            return &fp_ctl_commands[i];
    }
    return NULL;
}
