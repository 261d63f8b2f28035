/* What the verbs that restore files share: mounts of the hub, folders in them. */
#ifndef TOOLS_CTL_RESTORE_H
#define TOOLS_CTL_RESTORE_H

#include <jansson.h>
#include <stdbool.h>

#include "tools/ctl.h"
#include "tools/ctl_rest.h"

#define RESTORE "/api/v1/restore"

/* *@mount is the hub's answer; the caller's. */
int ctl_restore_mount(struct ctl *ctl, const char *backup_id, int disk, json_t **mount,
		      struct err *err);
/* Ends it at the hub, as far as that can be reached, and frees it. Accepts NULL. */
void ctl_restore_unmount(struct ctl *ctl, json_t *mount);

/* Calls @each for every entry of a folder, or of all below it, as the API tells it; not CTL_OK ends
 * it, and is the result. */
typedef int ctl_restore_each(void *arg, const json_t *file, struct err *err);
int ctl_restore_folder(struct ctl *ctl, const char *mount_id, const char *path, bool recursive,
		       ctl_restore_each *each, void *arg, struct err *err);

/* Verbs of "backup". */
struct ctl_args;
int ctl_backup_files(struct ctl *ctl, const struct ctl_args *args, struct err *err);
int ctl_backup_extract(struct ctl *ctl, const struct ctl_args *args, struct err *err);
int ctl_backup_mount(struct ctl *ctl, const struct ctl_args *args, struct err *err);
int ctl_backup_unmount(struct ctl *ctl, const struct ctl_args *args, struct err *err);

/* A signal has asked to end. */
bool ctl_restore_stopped(void);

#endif
