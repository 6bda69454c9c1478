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

/*
 * Has the configuration been reloaded behind our back, while settings of a
 * client hid the server's?  Then let the slot have the server's again.
 */
extern void pw_startup_settings_reload(void);

#endif							/* PW_STARTUP_SETTINGS_H */
