/*-------------------------------------------------------------------------
 *
 * session_libraries.h
 *	  The libraries that a client has loaded, loaded again where it goes.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SESSION_LIBRARIES_H
#define PW_SESSION_LIBRARIES_H

#include "lib/stringinfo.h"

/* To be called once, in a memory context that remains. */
extern void pw_libraries_init(void);

/* LOAD has been executed. */
extern void pw_library_loaded(const char *filename);

/*
 * The client's libraries, as a part of its session (see session.c).  Apply
 * raises an error if one cannot be loaded.
 */
extern bool pw_libraries_changed(void);
extern void pw_libraries_capture(StringInfo part);
extern void pw_libraries_apply(const char *part, size_t len);

/*
 * Has anybody loaded a library into this backend that is not in the part?
 * Then its client must not see it.
 */
extern bool pw_libraries_are_foreign(const char *part, size_t len);

#endif							/* PW_SESSION_LIBRARIES_H */
