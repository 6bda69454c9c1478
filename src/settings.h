/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  The settings of pool_worker, as variables.
 *
 * Runs in: every process.  The postmaster defines them at load; each process
 * has its own copy, kept current by PostgreSQL.
 *
 * See docs/settings.md for what they mean.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SETTINGS_H
#define PW_SETTINGS_H

typedef enum PwPoolMode
{
	PW_MODE_TRANSACTION,
	PW_MODE_SESSION,
} PwPoolMode;

/* where clients connect */
extern char *pw_listen_addresses;
extern int	pw_port;
extern char *pw_unix_socket_directories;	/* empty: the server's own */
extern int	pw_max_clients;

/* pools and slots */
extern int	pw_pool_mode;		/* PwPoolMode */
extern int	pw_pool_size;
extern int	pw_min_pool_size;
extern int	pw_max_pinned;		/* -1: pool_size */
extern char *pw_prewarm;		/* list of database/role */
extern int	pw_max_slots;		/* -1: derived from max_connections */
extern int	pw_max_pools;
extern int	pw_connect_timeout; /* ms */
extern int	pw_slot_idle_timeout;	/* s, 0 is never */
extern int	pw_max_session_size;	/* kB */
extern int	pw_statement_cache_size;	/* plan sources per slot */

/* waiting for a slot */
extern int	pw_max_waiting;		/* -1: no limit */
extern int	pw_queue_notice_after;	/* ms, 0 is never */
extern int	pw_queue_timeout;	/* ms, 0 is never */

/* the worker itself */
extern char *pw_database;		/* empty: shared catalogs only */

/* for developers */
extern bool pw_debug_always_switch;

/* Define them all.  Called once, from _PG_init(). */
extern void pw_settings_define(void);

/*
 * Split pool_worker.prewarm.  Calls "fn" for each pair; returns false, with
 * nothing called, if the list is malformed.
 */
typedef void (*PwPrewarmFn) (const char *database, const char *role, void *arg);
extern bool pw_settings_foreach_prewarm(const char *list, PwPrewarmFn fn, void *arg);

#endif							/* PW_SETTINGS_H */
