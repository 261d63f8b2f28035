/*
 * Telling the service manager how things stand, as sd_notify(3) and systemd.service(5) describe it:
 * datagrams to the socket NOTIFY_SOCKET names. Twenty lines instead of libsystemd, which brings its
 * own dependencies into every program. Without the variable all of it does nothing.
 */
#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

/* "READY=1", "STOPPING=1", "STATUS=...", several with '\n' between them. */
void notify(const char *state);

/* "RELOADING=1" with the time the protocol wants beside it. A READY=1 ends it. */
void notify_reloading(void);

/* How often the manager wants to hear "WATCHDOG=1" of this process, in milliseconds, already halved
 * as it advises; 0: it does not. */
unsigned notify_watchdog_ms(void);

#endif
