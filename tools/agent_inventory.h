/*
 * The inventory: the VMs this agent can back up, described in a JSON file by whoever runs them.
 * docs/agent.md has the format. The file is read anew for every discovery and every start, so an
 * added disk appears without a restart; a job keeps the snapshot it was started with.
 *
 * An inventory is immutable once loaded and may be read by any thread. Texts point into it.
 */
#ifndef TOOLS_AGENT_INVENTORY_H
#define TOOLS_AGENT_INVENTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/err.h"

#define AGENT_NAME_MAX	  255
#define AGENT_DISKS_MAX	  256
#define AGENT_QEMU_PREFIX "qemu:"
#define AGENT_SECTOR	  512u /* a disk's size is a multiple of it, as its guest sees it */
#define AGENT_DISK_BYTES  (1ULL << 60)

enum agent_format {
	AGENT_FORMAT_RAW,   /* file or block device, read directly */
	AGENT_FORMAT_QCOW2, /* file, read through a qemu-nbd child */
	AGENT_FORMAT_NBD,   /* source is a nbd:// or nbd+unix:// URI */
	AGENT_FORMAT_LIVE,  /* source is a block node of a running QEMU, the VM's `qmp` */
};

struct agent_disk {
	int64_t key;	    /* as a hub names it: discovery id "disk-<key>" */
	const char *label;  /* never NULL */
	const char *source; /* absolute path, or URI */
	const char *bitmap; /* dirty bitmap exported with the source; NULL: hash index */
	int64_t unit_number;
	int64_t capacity_bytes; /* size to report while the source is not there; 0: not given */
	enum agent_format format;
};

struct agent_vm {
	const char *name, *id;
	const char *path; /* ends in "/<name>"; "/<datacenter>/vm/<name>" when not given */
	const char *guest_os, *datacenter, *power_state, *folder_path, *annotation;
	const char *qmp; /* monitor socket of the QEMU that runs it; NULL: none */
	int64_t memory_mb, num_cpu;
	struct agent_disk *disks; /* in hardware order: as listed */
	size_t disk_count;
	char default_path[2 * AGENT_NAME_MAX + 8];
};

struct agent_inventory;

/* -EINVAL with a sentence naming file, VM and field; -errno when the file cannot be read. */
int agent_inventory_load(struct agent_inventory **out, const char *file, struct err *err);
/* The same from memory; @name stands for the file in messages. */
int agent_inventory_parse(struct agent_inventory **out, const char *text, size_t len,
			  const char *name, struct err *err);
void agent_inventory_free(struct agent_inventory *inv); /* NULL is fine */

size_t agent_inventory_count(const struct agent_inventory *inv);
const struct agent_vm *agent_inventory_vm(const struct agent_inventory *inv, size_t i);
const struct agent_vm *agent_inventory_find(const struct agent_inventory *inv, const char *path);

DEFINE_CLEANUP(struct agent_inventory *, agent_inventory_free)

#endif
