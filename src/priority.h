/*-------------------------------------------------------------------------
 *
 * priority.h
 *	  Who has high priority by the application it says it is.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_PRIORITY_H
#define PW_PRIORITY_H

#include "lib/stringinfo.h"

/*
 * Is the application_name among these startup settings, as startup_packet.h has
 * them, in pool_worker.priority_applications?  Cheap if that is empty.
 */
extern bool pw_priority_is_high(const StringInfoData *settings);

#endif							/* PW_PRIORITY_H */
