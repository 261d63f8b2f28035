/*
 * What an integer result means, once for the whole project.
 *
 *   0         done
 *   negative  -errno: something the caller did not expect; it travels up untouched
 *   positive  a named condition of that function, listed in its header, handled by its caller
 *
 * Functions of the control plane (open, create, start, complete, ...) also take a last parameter
 * `struct err *err`. Whoever finds the fault writes one sentence for a human there: what happened,
 * to which object, and what to do. Callers may put context in front; nobody rewrites the sentence.
 * The hot path carries the int alone.
 *
 * `struct err` lives on the caller's stack, owns no memory, and may be NULL where a function says
 * so. Library code returns errors and never logs them; whoever handles an error logs it, once.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>

struct err {
	int code; /* the value the failing function returned: -errno or a positive condition */
	char text[500]; /* one sentence, no newline; empty while code is 0 */
};

#define ERR_INIT ((struct err){.code = 0})

/* Sets code and text; returns @code, so that `return err_set(err, -EINVAL, "...")` reads well.
 * @err may be NULL. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set(), and appends ": <strerror(-code)>". @code must be negative. */
int err_sys(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<context>: " in front of what is there; returns err->code. @err may be NULL. */
int err_prefix(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
