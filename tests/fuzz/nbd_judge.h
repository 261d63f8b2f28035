/*
 * Judges a session from outside, by the specification: the replies against what was said, the disks
 * against what was acknowledged.
 *
 * The negotiation is followed by the server's own answers: which options it takes is its business,
 * that each is answered once, in order and in the right form is not. Every request is then expected
 * to succeed or to fail, by the table in docs/nbd.md; each complete one is answered exactly once,
 * in whatever order, a WRITE that was cut short never with success; data read is what the requests
 * before have left there. In the end the disks hold what the requests say, byte for byte; what a
 * failed or unfinished change was about may hold anything, the rest of the disk may not.
 */
#ifndef FUZZ_NBD_JUDGE_H
#define FUZZ_NBD_JUDGE_H

#include "nbd_rig.h"

/* Fails when something is not right; then makes the disks what they were. */
void judge_session(const struct rig_session *session);

#endif
