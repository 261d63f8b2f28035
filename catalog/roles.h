/* Inside the folder: how a role is written in the database. */
#ifndef CATALOG_ROLES_H
#define CATALOG_ROLES_H

#include "catalog/row.h"

extern const struct row_words catalog_roles; /* in the order of enum catalog_role */

#endif
