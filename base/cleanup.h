/*
 * Scoped cleanup for the control plane: declare a variable with _cleanup_(fn), hand it over with
 * steal(). Destructors take a pointer to the variable and accept NULL in it.
 */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))

/* DEFINE_CLEANUP(struct foo *, foo_free) makes foo_freep() for _cleanup_(foo_freep). */
#define DEFINE_CLEANUP(type, fn)                                                                   \
	static inline void fn##p(type *p)                                                          \
	{                                                                                          \
		if (*p)                                                                            \
			fn(*p);                                                                    \
	}

/* Takes the value out of *@p and leaves NULL, so that its cleanup does nothing. */
#define steal(p)                                                                                   \
	({                                                                                         \
		__typeof__(p) _p = (p);                                                            \
		__typeof__(*_p) _v = *_p;                                                          \
		*_p = NULL;                                                                        \
		_v;                                                                                \
	})

static inline void freep(void *p)
{
	free(*(void **)p);
}

static inline void closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline int steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

DEFINE_CLEANUP(FILE *, fclose)

#endif
