/*-------------------------------------------------------------------------
 *
 * startup_settings.h
 *	  The settings that clients ask for in their startup packets, in a backend
 *	  that serves one client after the other.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_STARTUP_SETTINGS_H
#define PW_STARTUP_SETTINGS_H

/*
 * To be called when the backend has just authenticated, before the settings of
 * the role and the database come in force.
 */
extern void pw_startup_settings_note_server(void);

/*
 * Make the startup settings in force those of this list: pairs of
 * null-terminated name and value, "len" bytes in all.  Costs a comparison if
 * they are already.  Settings of the list before that are not in this one go
 * back to what they were when the slot was opened.
 *
 * Raises an error, as the server would refuse the connection, if a setting
 * does not exist or its value is bad; the transaction that this opened is then
 * the caller's to abort, and the next call starts from the baseline.  Must be
 * called outside of a transaction.
 */
extern void pw_startup_settings_apply(const char *settings, size_t len);

/* Is this list another one than that in force? */
extern bool pw_startup_settings_differ(const char *settings, size_t len);

/*
 * True after an error if it was not the new list that was bad, but the values
 * of the last one could not be taken back.  The backend is of no use then.
 */
extern bool pw_startup_settings_are_stuck(void);

/*
 * Has the configuration been reloaded behind our back, while settings of a
 * client hid the server's?  Then let the slot have the server's again; the
 * settings of a session must have been taken back before.
 */
extern bool pw_startup_settings_are_stale(void);
extern void pw_startup_settings_reload(void);

#endif							/* PW_STARTUP_SETTINGS_H */
