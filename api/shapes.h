/* Shapes of answers that more than one noun's handlers give. NULL: no memory. */
#ifndef API_SHAPES_H
#define API_SHAPES_H

#include <jansson.h>

#include "catalog/contexts.h"

json_t *api_shape_vm(const struct catalog_vm_context *vm);

#endif
