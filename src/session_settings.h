/*-------------------------------------------------------------------------
 *
 * session_settings.h
 *	  What a client has set in its session, taken along from slot to slot.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SESSION_SETTINGS_H
#define PW_SESSION_SETTINGS_H

#include "lib/stringinfo.h"

/* To be called once, in a memory context that remains. */
extern void pw_settings_init(void);

/* Something happened that may have changed settings. */
extern void pw_settings_touch(void);

/*
 * The settings of the session, as a part of it (see session.c).  Apply
 * changes only what differs.  It raises an error if a value is no longer
 * accepted; some settings are then those of one session and some those of the
 * other, which the next apply sets right.
 */
extern bool pw_settings_changed(void);
extern void pw_settings_capture(StringInfo part);
extern void pw_settings_apply(const char *part, size_t len);

#endif							/* PW_SESSION_SETTINGS_H */
