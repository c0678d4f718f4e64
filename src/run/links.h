/* links.h - what the links between the ranks of this run reach, as a cluster description says it (plan/cluster.h). */
#pragma once
#include "device/device.h"
#include "plan/cluster.h"
/* All ranks together, after comm_use(): the links inside a machine where it has several ranks, those between machines where
 * there are several; others stay as they are. Sets ranks_per_node. Takes memory of the device for two messages as long as those
 * of a step. */
void links_measure(struct arena *a, const struct device *d, struct cluster *c);
