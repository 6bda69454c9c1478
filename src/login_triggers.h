/*-------------------------------------------------------------------------
 *
 * login_triggers.h
 *	  Event triggers for logins fire when a client logs in, not when a slot does.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_LOGIN_TRIGGERS_H
#define PW_LOGIN_TRIGGERS_H

#include "utils/elog.h"

/*
 * This backend is going to be a slot.  Call it when it knows its database and
 * has not yet fired the triggers.
 */
extern void pw_login_triggers_postpone(void);

/*
 * The attached client logs in.  What is not NULL is the error with which to
 * refuse it; no transaction is open afterwards.
 */
extern ErrorData *pw_login_triggers_fire(void);

#endif							/* PW_LOGIN_TRIGGERS_H */
