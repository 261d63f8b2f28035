/*
 * Static probes (USDT) of the server, provider "sendense_nbd": a single no-op each in the code, and
 * a note in the ELF file that tells tracers (bpftrace, perf, systemtap) where it is and in which
 * registers its arguments are. docs/nbd.md says how to use them.
 *
 * The arguments are part of the product's face: append, never change. A cookie is the client's
 * eight bytes as they came; lengths and offsets are bytes; times are nanoseconds.
 */
#ifndef NBD_PROBE_H
#define NBD_PROBE_H

#include <sys/sdt.h>

/* A client was let in; what follows names it by this number, as the log does. */
#define NBD_PROBE_ACCEPT(conn, fd) DTRACE_PROBE2(sendense_nbd, accept, conn, fd)

/* It entered an export. @features: 1 structured replies, 2 extended headers; bit n of @contexts:
 * the metadata context with the id n was selected. */
#define NBD_PROBE_NEGOTIATED(conn, export_name, size, features, contexts)                          \
	DTRACE_PROBE5(sendense_nbd, negotiated, conn, export_name, size, features, contexts)

/* A request's header is complete and was taken up; @command is the protocol's number. */
#define NBD_PROBE_REQUEST_START(conn, cookie, command, off, len, flags)                            \
	DTRACE_PROBE6(sendense_nbd, request_start, conn, cookie, command, off, len, flags)

/* It is being answered. @error: 0 or an errno; @took_ns is told in rounds of the worker. */
#define NBD_PROBE_REQUEST_DONE(conn, cookie, command, len, error, took_ns)                         \
	DTRACE_PROBE6(sendense_nbd, request_done, conn, cookie, command, len, error, took_ns)

/* The connection is over; requests it had outstanding were not answered. */
#define NBD_PROBE_CLOSE(conn, fd) DTRACE_PROBE2(sendense_nbd, close, conn, fd)

#endif
