/*
 * A QEMU's monitor: one command, one answer, over its QMP unix socket. A monitor talks to one
 * client at a time, so it is opened for a few commands and closed again. What QEMU says is bounded
 * and read as JSON; events are passed over.
 *
 * A connection belongs to one thread.
 */
#ifndef TOOLS_AGENT_QMP_H
#define TOOLS_AGENT_QMP_H

#include <jansson.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "tools/agent_stop.h"

struct agent_qmp;

/* Named condition of agent_qmp_call(): QEMU understood and refused; the sentence is QEMU's. */
enum agent_qmp_cond { AGENT_QMP_E_REFUSED = 1 };

/* @stop may be NULL. -ETIMEDOUT: somebody else holds the monitor, or QEMU hangs. */
int agent_qmp_open(struct agent_qmp **out, const char *path, const struct agent_stop *stop,
		   struct err *err);
void agent_qmp_close(struct agent_qmp *qmp); /* NULL is fine */

/* @args is stolen; NULL: none. *@answer is the "return" member, the caller json_decref()s it; NULL
 * when nobody wants it. AGENT_QMP_E_REFUSED, -errno: the connection is of no use any more. */
int agent_qmp_call(struct agent_qmp *qmp, const char *command, json_t *args, json_t **answer,
		   struct err *err);

/* Waits until job @id has concluded, dismisses it, and tells how it ended; a job that is not there
 * has ended well. */
int agent_qmp_wait_job(struct agent_qmp *qmp, const char *id, struct err *err);

DEFINE_CLEANUP(struct agent_qmp *, agent_qmp_close)

#endif
