/*
 * Who sends a second signal does not want to wait for the orderly stop the first one began.
 */
#ifndef BASE_STOP_H
#define BASE_STOP_H

/* Exit status of a program that was ended at once. */
#define STOP_AT_ONCE 3

/* To be called when the first signal was taken, by a thread that has the signals blocked: from now
 * on SIGTERM, SIGINT and SIGHUP end the process as it stands, as a crash would. */
void stop_at_next_signal(void);

#endif
