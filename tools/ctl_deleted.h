/* What a hub answers when something was deleted. */
#ifndef TOOLS_CTL_DELETED_H
#define TOOLS_CTL_DELETED_H

#include <jansson.h>

#include "tools/ctl.h"

/* Tells of @reply ("Deleted" of the API; NULL: all is gone); @what was deleted on request. With
 * --json prints it as it came. */
void ctl_tell_deleted(struct ctl *ctl, const json_t *reply, const char *what);

#endif
