/*
 * The soak test: a server of four exports (a process of its own, server.c) under good clients that
 * verify every byte (good.c) and bad ones of every kind (hostile.c), in rounds. test_soak.c starts,
 * measures and judges.
 */
#ifndef SOAK_H
#define SOAK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"

#define SOAK_DISKS 4
#define SOAK_GUEST "guest" /* an export that comes and goes */
#define SOAK_SCRATCH                                                                               \
	(6 * MIB)	    /* of each writable disk, at its end: who aborts writes there ...      \
			     */
#define SOAK_JUNK      0xee /* ... these bytes and no others */
#define SOAK_HANDSHAKE 1000 /* ms that a client may negotiate */
#define SOAK_PSK       "00112233445566778899aabbccddeeff" /* of user "good", over TCP */
#define SOAK_FIXED     3				  /* index of the disk that is read-only */

struct soak_disk {
	const char *name;
	uint64_t size;
	bool read_only;
	/* What the disk holds, scratch excepted: a file NAME.raw, mapped. Each good client alone
	 * touches its own part. */
	unsigned char *model;
};

enum soak_count {
	SOAK_WRITTEN, /* bytes, verified at some time */
	SOAK_ZEROED,
	SOAK_READ,	 /* bytes, verified */
	SOAK_OPERATIONS, /* of good clients */
	SOAK_CONNECTS,	 /* of good clients */
	SOAK_REFUSED,	 /* of good clients, who came again: there were too many others */
	SOAK_HOSTILE,	 /* sessions */
	SOAK_COUNTS,
};

struct soak {
	char dir[128];
	char socket[108]; /* as long as one can be */
	unsigned port;	  /* of 127.0.0.1 */
	pid_t server;
	struct soak_disk disks[SOAK_DISKS];
	atomic_bool stop; /* the round is over, or something is wrong */
	atomic_bool failed;
	atomic_ullong counts[SOAK_COUNTS];
};

/* Something is not as it must be: said on stdout, and the end of it all. Any thread. */
void soak_violation(struct soak *soak, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static inline void soak_count(struct soak *soak, enum soak_count what, uint64_t n)
{
	atomic_fetch_add_explicit(&soak->counts[what], n, memory_order_relaxed);
}

/* A thread of a round: runs until soak->stop. */
struct soak_thread {
	struct soak *soak;
	uint64_t seed;
	unsigned disk;	     /* good: the one it works on */
	uint64_t start, end; /* good: its part of it, bytes */
};

void *soak_writer(void *thread);
void *soak_reader(void *thread);
void *soak_hostile(void *thread);

/* Reads all of a disk and compares; the scratch holds zeroes and SOAK_JUNK, and goes into the model
 * as it is. Between rounds. */
void soak_verify(struct soak *soak, unsigned disk);

/* The server process: makes and serves the disks in @dir until SIGTERM; prints a line with its port
 * when ready. Exit status. */
int soak_serve(const char *dir);

/* The disks' names and sizes, as both sides know them. */
extern const struct soak_disk soak_disks[SOAK_DISKS];

/* xorshift64*: good enough, and the same everywhere. */
static inline uint64_t soak_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dULL;
}

#endif
