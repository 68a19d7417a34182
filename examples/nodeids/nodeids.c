// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Says under /sys which node of which session this machine is.
 *
 *   modprobe nodeids session_id=7 node_id=3
 *   cat /sys/kernel/nodeids/session_id /sys/kernel/nodeids/node_id
 *
 * An example of a module of one's own: krg-provision builds it against a kernel, packages
 * both, installs them on nodes, boots them, and takes these two files as the proof that the
 * module runs there (docs/releases.md, "Another kernel, another module").
 */
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sysfs.h>

#define IDS 256

static int session_id = -1;
module_param(session_id, int, 0444);
MODULE_PARM_DESC(session_id, "the session that the machine belongs to, 0 to 255");

static int node_id = -1;
module_param(node_id, int, 0444);
MODULE_PARM_DESC(node_id, "the machine's number in its session, 0 to 255");

static ssize_t session_id_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", session_id);
}

static ssize_t node_id_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", node_id);
}

static struct kobj_attribute session_id_attribute = __ATTR_RO(session_id);
static struct kobj_attribute node_id_attribute = __ATTR_RO(node_id);

static struct attribute *ids[] = {
	&session_id_attribute.attr,
	&node_id_attribute.attr,
	NULL,
};

static const struct attribute_group group = { .attrs = ids };
static struct kobject *directory;

static bool known(const char *name, int id)
{
	if (id >= 0 && id < IDS)
		return true;
	pr_err("nodeids: %s=%d: must be given, 0 to %d\n", name, id, IDS - 1);
	return false;
}

static int __init nodeids_init(void)
{
	int error;

	/* Without its ids it would prove nothing. */
	if (!known("session_id", session_id) || !known("node_id", node_id))
		return -EINVAL;
	directory = kobject_create_and_add("nodeids", kernel_kobj);
	if (!directory)
		return -ENOMEM;
	error = sysfs_create_group(directory, &group);
	if (error) {
		kobject_put(directory);
		return error;
	}
	pr_info("nodeids: node %d of session %d\n", node_id, session_id);
	return 0;
}

static void __exit nodeids_exit(void)
{
	kobject_put(directory);
}

module_init(nodeids_init);
module_exit(nodeids_exit);
MODULE_DESCRIPTION("Says under /sys which node of which session this machine is");
MODULE_LICENSE("GPL");
