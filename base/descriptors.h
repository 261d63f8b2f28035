/*
 * How many files the process may have open: every connection is one, every link of a chain two.
 */
#ifndef BASE_DESCRIPTORS_H
#define BASE_DESCRIPTORS_H

/* Raises the soft limit to the hard one, which is what the administrator allows: the soft one is
 * low for the sake of programs that use select(). Called by main() before threads start. */
void descriptors_raise(void);

#endif
