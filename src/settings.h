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

#include "utils/guc.h"

typedef enum PwPoolMode
{
	PW_MODE_TRANSACTION,
	PW_MODE_SESSION,
} PwPoolMode;

typedef enum PwEnforceOn
{
	PW_ENFORCE_POOL,			/* clients of the pool */
	PW_ENFORCE_ALL,				/* and those that connect directly */
} PwEnforceOn;

typedef enum PwPriority
{
	PW_PRIORITY_NORMAL,
	PW_PRIORITY_HIGH,
} PwPriority;

/* How many settings may differ from pool to pool. */
#define PW_POOL_NSETTINGS 22

/*
 * What may differ from pool to pool; see pool_settings.h for what is in force.
 * The fields are those settings without "pool_worker.", in their units.  A new
 * one needs a field here and a row in pw_pool_setting_info[].
 */
typedef struct PwPoolSettings
{
	int			client_idle_timeout;	/* ms, 0 is never */
	int			client_message_timeout; /* ms, 0 is never */
	int			idle_in_transaction_timeout;	/* ms, 0 is never */
	int			log_min_duration;	/* ms, -1 is never */
	int			max_pinned;		/* -1: pool_size */
	int			max_pool_clients;	/* -1 is no limit */
	int			max_waiting;	/* -1 is no limit */
	int			min_idle;
	int			min_pool_size;
	int			pool_mode;		/* PwPoolMode */
	int			pool_size;
	int			priority;		/* PwPriority */
	int			queue_notice_after; /* ms, 0 is never */
	int			queue_timeout;	/* ms, 0 is never */
	int			reserve_pool_size;
	int			slot_idle_timeout;	/* s, 0 is never */
	int			slot_lifetime;	/* s, 0 is for ever */
	int			slot_max_memory;	/* kB, 0 is no limit */
	int			slot_max_transactions;	/* 0 is no limit */
	int			statement_timeout;	/* ms, 0 is never */
	int			transaction_timeout;	/* ms, 0 is never */
	int			weight;

	/*
	 * Where each comes from, by the index in pw_pool_setting_info[]: a
	 * GucSource, PGC_S_ARGV or less if from the server's configuration.
	 */
	uint8		source[PW_POOL_NSETTINGS];
} PwPoolSettings;

/* One setting that may differ from pool to pool. */
typedef struct PwPoolSettingInfo
{
	const char *name;
	int		   *variable;		/* the server's value, in the worker */
	size_t		offset;			/* of the int in PwPoolSettings */
} PwPoolSettingInfo;

extern const PwPoolSettingInfo pw_pool_setting_info[PW_POOL_NSETTINGS];

/* Where the setting at this offset in PwPoolSettings comes from. */
extern GucSource pw_pool_setting_source(const PwPoolSettings *settings, size_t offset);

/* where clients connect */
extern char *pw_listen_addresses;
extern int	pw_port;
extern char *pw_unix_socket_directories;	/* empty: the server's own */
extern int	pw_max_clients;

/* what may differ from pool to pool: the server's values */
extern int	pw_client_idle_timeout;
extern int	pw_client_message_timeout;
extern int	pw_idle_in_transaction_timeout;
extern int	pw_log_min_duration;
extern int	pw_max_pinned;
extern int	pw_max_pool_clients;
extern int	pw_max_waiting;
extern int	pw_min_idle;
extern int	pw_min_pool_size;
extern int	pw_pool_mode;
extern int	pw_pool_size;
extern int	pw_priority;
extern int	pw_queue_notice_after;
extern int	pw_queue_timeout;
extern int	pw_reserve_pool_size;
extern int	pw_slot_idle_timeout;
extern int	pw_slot_lifetime;
extern int	pw_slot_max_memory;
extern int	pw_slot_max_transactions;
extern int	pw_statement_timeout;
extern int	pw_transaction_timeout;
extern int	pw_weight;

/* pools and slots */
extern char *pw_prewarm;		/* list of database/role */
extern int	pw_max_slots;		/* -1: derived from max_connections */
extern int	pw_max_pools;
extern int	pw_connect_timeout; /* ms */
extern int	pw_max_opening;
extern int	pw_health_check_interval;	/* ms, 0 is never */
extern int	pw_health_check_timeout;	/* ms */
extern int	pw_max_session_size;	/* kB */
extern int	pw_statement_cache_size;	/* plan sources per slot */

/* who goes first */
extern char *pw_priority_applications;	/* list of application names */
extern int	pw_reserve_threshold;	/* percent */

/* whom the time limits are for */
extern int	pw_enforce_on;		/* PwEnforceOn */
extern char *pw_enforce_exempt; /* list of roles */

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
