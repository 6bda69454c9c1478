/*-------------------------------------------------------------------------
 *
 * session_sequences.h
 *	  currval() and lastval(), taken along from slot to slot.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SESSION_SEQUENCES_H
#define PW_SESSION_SEQUENCES_H

#include "lib/stringinfo.h"

/* To be called once, in a memory context that remains. */
extern void pw_sequences_init(void);

/*
 * Something happened that may have changed what the session knows of its
 * sequences, or drawn a value; or PostgreSQL has forgotten what it knew.
 */
extern void pw_sequences_touch(void);
extern void pw_sequences_drawn(void);
extern void pw_sequences_forgotten(void);

/*
 * Try to find out what the session knows of its sequences.  False if that
 * would mean to wait for a lock; then it can not be taken along now.  To be
 * called in a transaction, before capture.
 */
extern bool pw_sequences_look(void);

/* What it knows, as a part of the session (see session.c). */
extern bool pw_sequences_changed(void);
extern void pw_sequences_capture(StringInfo part);
extern void pw_sequences_apply(const char *part, size_t len);

#endif							/* PW_SESSION_SEQUENCES_H */
