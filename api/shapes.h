/* Shapes of answers that more than one noun's handlers give. NULL: no memory. */
#ifndef API_SHAPES_H
#define API_SHAPES_H

#include <jansson.h>

#include "api/list.h"
#include "catalog/contexts.h"
#include "catalog/job_log.h"
#include "hub/backup.h"
#include "hub/backup_delete.h"

extern const struct api_shape api_vm_shape;
json_t *api_shape_vm(const struct catalog_vm_context *vm);

/* Answers with the VMs of @filter: limit and offset are the request's. */
int api_answer_vms(struct api_request *req, struct catalog_vm_filter *filter, struct err *err);
extern const struct api_shape api_vm_list_shape;
extern const struct api_list api_vm_list;
/* Answers with what was deleted: API_ACCEPTED while files are left of it (h_deletions.c). */
void api_answer_deleted(struct api_request *req, const struct hub_deleted *deleted);
extern const struct api_shape api_deleted_shape;
json_t *api_shape_progress(const struct hub_backup_view *view);
json_t *api_shape_line(const struct catalog_job_line *line);

#endif
