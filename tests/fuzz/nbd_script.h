/*
 * What a client says, composed from the bytes of an input, so that a fuzzer need not find out by
 * itself that lengths have to add up, and anything that does not can be said as well.
 *
 * An input is: how to begin and to behave (1 byte), the disks' manners (1), the sizes of the pieces
 * in which all is said (see below), then commands: a byte that selects one, and its parameters. A
 * bit in the first byte says that the rest is what the client says, as it is.
 */
#ifndef FUZZ_NBD_SCRIPT_H
#define FUZZ_NBD_SCRIPT_H

#include "nbd_rig.h"

/* Fills in @session from an input: what is said, in which pieces, and how the disks behave.
 * @transmission: begin with a negotiation that leads into a disk. What it points to is static. */
void script_compose(struct rig_session *session, const uint8_t *data, size_t size,
		    bool transmission);

#endif
