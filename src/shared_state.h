/*-------------------------------------------------------------------------
 *
 * shared_state.h
 *	  Layout of pool_worker's shared memory, and who may touch what.
 *
 * Runs in: postmaster (sizing and creation), pool worker, slots, and every
 * backend that calls one of our SQL functions.
 *
 * There is one PwShmControl, followed by three arrays that the postmaster
 * sizes once: pools, slots and clients.  An index into one of them is how the
 * processes name a pool, a slot or a client to each other.  Nothing in here
 * may be a descriptor, a latch or a pointer to private memory.
 *
 * Locking rules
 * -------------
 *
 * - control->lock protects identity: which worker serves, which pool is which
 *	 (database, role), which backend is which slot.  The worker changes them
 *	 holding it exclusively; a slot does so for its own pid when it starts and
 *	 when it exits.  Everybody else reads them holding it shared.
 *
 * - A client belongs to exactly one process at a time, and its "word" says to
 *	 which: see PwClientState.  Ownership changes by one compare-and-swap on
 *	 the word and in no other way.  The fields marked "by the owner" may be
 *	 written by the owner only; others may read them, and what they read is
 *	 already history.
 *
 * - The worker notes when it has found a parked client waiting, without owning
 *	 it: ready_since.  Nobody else writes that, and a later parked_at makes it
 *	 void: see pw_client_waiting_since().
 *
 * - slot->lock protects slot->client: "this slot serves this client".  A
 *	 cancel request is turned into a signal while holding it, and a slot holds
 *	 it exclusively to attach or let go of a client.  So the signal reaches
 *	 the backend while it still serves the client that was meant.
 *
 * - slot->command is changed by the slot, and by the worker as time_limits.h
 *	 says.  The times beside it are the slot's; the worker believes them only if
 *	 the word is the same before and after.
 *
 * - slot->asked is the worker's, slot->answered the slot's, and what stands
 *	 beside them is valid for a moment in the past.
 *
 * - slot->activity is the handshake between worker and slot about who gives
 *	 the slot its next client: see PwSlotActivity.
 *
 * - Counters are atomics or words with a single writer; a reader may see one
 *	 of them ahead of another.
 *
 * - control->holds is under control->lock too; the backend that a hold is of
 *	 writes it.  So are control->requests, by whom they are of and the worker
 *	 (mailbox.c), and control->orders, which the worker writes.
 *
 * - pool->service is the worker's; slots heed it between transactions: see
 *	 operations.c.
 *
 * - No two of these locks are held at once, except slot->lock inside
 *	 control->lock.  Nobody allocates, waits, or raises an error under either;
 *	 copy out first, work afterwards.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SHARED_STATE_H
#define PW_SHARED_STATE_H

#include "datatype/timestamp.h"
#include "libpq/pqcomm.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"

#include "settings.h"
#include "time_limits.h"

/* "no such index", for pools, slots and clients alike */
#define PW_NONE (-1)

/*
 * The life of a client, as everybody sees it.
 *
 *		                        HELD
 *		                         ^
 *		                         v
 *		FREE --> ADMITTING --> PARKED <--> ATTACHED
 *		  ^          |          |  ^         |
 *		  |          |          |  |         v
 *		  |          |          |  +----- LEAVING
 *		  |          v          v            |
 *		  +------- CLOSING <----+------------+
 */
typedef enum PwClientState
{
	PW_CLIENT_FREE,				/* nobody's; next: ADMITTING */
	PW_CLIENT_ADMITTING,		/* the worker's, being authenticated; next:
								 * PARKED, CLOSING */
	PW_CLIENT_PARKED,			/* waits in its pool's epoll set; whoever
								 * swaps the word owns it next: ATTACHED by a
								 * slot or by the worker in a slot's name,
								 * HELD or CLOSING by the worker */
	PW_CLIENT_HELD,				/* PARKED, but the worker has something to say
								 * to it; a slot that has taken it out of the
								 * set waits for the end of that; next:
								 * PARKED, CLOSING */
	PW_CLIENT_ATTACHED,			/* the slot's in the word; next: PARKED,
								 * LEAVING; CLOSING by the worker, only after
								 * that slot's backend is gone */
	PW_CLIENT_LEAVING,			/* its slot let go of it for good, and put it
								 * on the leavers list; next: CLOSING, or
								 * PARKED if it has something to say yet */
	PW_CLIENT_CLOSING,			/* the worker's, being closed; next: FREE */
} PwClientState;

#define PW_CLIENT_NSTATES (PW_CLIENT_CLOSING + 1)

/*
 * A client's word packs state (8 bits), slot plus one (24 bits, 0 is none)
 * and generation (32 bits).  The generation grows by one each time the entry
 * is used for another client, so that a stale event, descriptor or request
 * cannot be taken for the new client's.
 */
#define PW_CLIENT_WORD(generation, state, slot) \
	(((uint64) (generation) << 32) | ((uint64) ((slot) + 1) << 8) | (uint64) (state))
#define PW_WORD_STATE(word) ((PwClientState) ((word) & 0xff))
#define PW_WORD_SLOT(word) ((int) (((word) >> 8) & 0xffffff) - 1)
#define PW_WORD_GENERATION(word) ((uint32) ((word) >> 32))

/* An event of a pool's epoll set names the client and its generation. */
#define PW_EPOLL_DATA(client, generation) (((uint64) (generation) << 32) | (uint32) (client))
#define PW_EPOLL_CLIENT(data) ((int) ((data) & 0xffffffff))
#define PW_EPOLL_GENERATION(data) ((uint32) ((data) >> 32))

/*
 * A pool has two epoll sets: clients with high priority queue in one, all
 * others in the other.  Values of "watched".
 */
#define PW_WATCH_NORMAL (1 << 0)
#define PW_WATCH_HIGH	(1 << 1)
#define PW_WATCH_ALL	(PW_WATCH_NORMAL | PW_WATCH_HIGH)

/*
 * What a slot is doing, and who may give it its next client.
 *
 *		EMPTY --> OPENING --> IDLE <--> BUSY <--> PINNED
 *		  ^          |         |  ^       ^          |
 *		  |          |         v  |       |          |
 *		  |          |      CLAIMED --> ASSIGNED      |
 *		  |          v         |                     |
 *		  +------- GONE <------+---------------------+   (from any but EMPTY)
 */
typedef enum PwSlotActivity
{
	PW_SLOT_EMPTY,				/* no backend; next: OPENING, by the worker */
	PW_SLOT_OPENING,			/* libpq is connecting, or the backend has not
								 * reported yet; next: IDLE by the slot */
	PW_SLOT_IDLE,				/* sleeps, maybe with a sticky client that
								 * says nothing; next: BUSY by the slot,
								 * CLAIMED by the worker: one compare-and-swap
								 * decides */
	PW_SLOT_CLAIMED,			/* the worker is choosing a client for it; the
								 * slot must wait; next: ASSIGNED or IDLE, by
								 * the worker */
	PW_SLOT_ASSIGNED,			/* slot->assigned holds the next client, or
								 * PW_NONE: retire; next: BUSY by the slot */
	PW_SLOT_BUSY,				/* serves slot->client; takes its next client
								 * from the pool's epoll set by itself; next:
								 * IDLE, PINNED */
	PW_SLOT_PINNED,				/* keeps slot->client between its
								 * transactions; next: BUSY */
	PW_SLOT_GONE,				/* the backend has exited or will; next: EMPTY
								 * by the worker, once it has cleaned up */
} PwSlotActivity;

#define PW_SLOT_NACTIVITIES (PW_SLOT_GONE + 1)

/* Why a client keeps its slot.  Texts are in pw_pin_reason_names[]. */
typedef enum PwPinReason
{
	PW_PIN_NONE,
	PW_PIN_SESSION_MODE,		/* pool_worker.pool_mode = session */
	PW_PIN_TRANSACTION,			/* a transaction block is open */
	PW_PIN_TEMPORARY_OBJECTS,
	PW_PIN_SESSION_LOCKS,		/* session-level advisory locks */
	PW_PIN_CURSORS,				/* WITH HOLD cursors */
	PW_PIN_LISTEN,
	PW_PIN_SEQUENCES,			/* lastval() is being locked by others */
	PW_PIN_RANDOM_SEED,			/* setseed() */
	PW_PIN_OTHER,				/* something that cannot be looked into */
	PW_PIN_SESSION_SIZE,		/* larger than max_session_size */
	PW_PIN_REQUESTED,			/* pool_pin() */
	PW_PIN_INPUT,				/* it has sent more than one command, and the
								 * pool is not OPEN */
} PwPinReason;

#define PW_PIN_NREASONS (PW_PIN_INPUT + 1)

/* Are clients served?  What an administrator wants; see operations.c. */
typedef enum PwService
{
	PW_SERVICE_OPEN,
	PW_SERVICE_PAUSED,			/* not between their transactions; they wait */
	PW_SERVICE_DRAINING,		/* likewise; they are sent away */
} PwService;

/* What an administrator can ask of the worker. */
typedef enum PwOperation
{
	PW_OPERATION_PAUSE,
	PW_OPERATION_RESUME,
	PW_OPERATION_DRAIN,
	PW_OPERATION_RECYCLE,
	PW_OPERATION_DISCONNECT,
	PW_OPERATION_CANCEL,
} PwOperation;

#define PW_NOPERATIONS (PW_OPERATION_CANCEL + 1)

/* What comes of it. */
typedef enum PwAnswer
{
	PW_ANSWER_PENDING,			/* none yet */
	PW_ANSWER_DONE,
	PW_ANSWER_NOBODY,			/* there is nobody to do it to */
	PW_ANSWER_FULL,				/* too many orders in force */
	PW_ANSWER_FAILED,			/* an error was raised, and logged */
} PwAnswer;

/* Why a slot is to end.  Texts are in pw_retire_reason_names[]. */
typedef enum PwRetireReason
{
	PW_RETIRE_NONE,
	PW_RETIRE_AGE,				/* slot_lifetime */
	PW_RETIRE_TRANSACTIONS,		/* slot_max_transactions */
	PW_RETIRE_MEMORY,			/* slot_max_memory */
	PW_RETIRE_WORN,				/* has collected too many placeholders */
	PW_RETIRE_RECYCLED,			/* somebody wants all slots replaced */
	PW_RETIRE_SURPLUS,			/* the pool has more than it may */
	PW_RETIRE_NO_ANSWER,		/* does not wake up, see slot_life.c */
	PW_RETIRE_YIELDS,			/* to another pool, see pool_share.c */
} PwRetireReason;

#define PW_RETIRE_NREASONS (PW_RETIRE_YIELDS + 1)

/*
 * Entries for clients beyond pool_worker.max_clients, so that one too many
 * can be told so in the protocol.
 */
#define PW_SPARE_CLIENTS 32

/* application_name of a slot while no client is attached */
#define PW_SLOT_APPLICATION_NAME "pool_worker slot"

/*
 * A client that speaks protocol 3.2 or newer is told all bytes of its cancel
 * key, others only four, because they know no other length.
 */
#define PW_CANCEL_KEY_SIZE 32
#define pw_cancel_key_size(protocol) \
	((protocol) >= PG_PROTOCOL(3, 2) ? PW_CANCEL_KEY_SIZE : 4)

#define PW_REMOTE_HOST_LEN 64	/* numeric address or "[local]" */
#define PW_REMOTE_PORT_LEN 8
#define PW_POOL_ERROR_LEN 256

/* As in Port: what the system has set for a socket, and what we have. */
typedef struct PwShmTcpOptions
{
	int			default_keepalives_idle;
	int			default_keepalives_interval;
	int			default_keepalives_count;
	int			default_tcp_user_timeout;
	int			keepalives_idle;
	int			keepalives_interval;
	int			keepalives_count;
	int			tcp_user_timeout;
} PwShmTcpOptions;

typedef struct PwShmClient
{
	pg_atomic_uint64 word;		/* PW_CLIENT_WORD: state, slot, generation */

	/*
	 * By the owner, and by the worker as in "Locking rules".  Here, because
	 * the worker often looks at the three of them, for all clients that wait.
	 */
	TimestampTz parked_at;		/* last park */
	TimestampTz ready_since;	/* see pw_client_waiting_since() */

	/*
	 * Written by the worker while ADMITTING, constant until CLOSING.
	 */
	int			pool;			/* index, PW_NONE until authenticated */
	bool		high;			/* by its application: queues in the high set;
								 * see also pw_client_is_high() */
	uint64		id;				/* serial number shown to users */
	int32		cancel_pid;		/* what BackendKeyData says, */
	uint8		cancel_key[PW_CANCEL_KEY_SIZE]; /* and a CancelRequest must
												 * repeat */
	uint32		protocol;		/* as negotiated */
	SockAddr	raddr;			/* the client's address */
	SockAddr	laddr;			/* ours */
	char		remote_host[PW_REMOTE_HOST_LEN];
	char		remote_port[PW_REMOTE_PORT_LEN];
	TimestampTz connected_at;

	/*
	 * What the client asked for in its startup packet: pairs of
	 * null-terminated name and value, settings_len bytes in all, in the DSA
	 * area.  Never NULL while PARKED or ATTACHED.
	 */
	dsa_pointer settings;
	uint32		settings_len;	/* bytes */

	/*
	 * The session that the client has left in no slot but here: session_len
	 * bytes in the DSA area, see session.c.  By the owner; the worker frees
	 * it.
	 */
	dsa_pointer session;		/* valid if session_size is not 0 */
	uint32		session_len;	/* 0 if there is nothing to save */
	uint32		session_size;	/* bytes allocated */

	/* By the owner. */
	bool		told_ok;		/* has had its AuthenticationOk already, */
	bool		said_hello;		/* and everything up to ReadyForQuery */
	bool		told_standby;	/* in_hot_standby was on when last reported */
	bool		hung_up;		/* a slot has seen that, and left it to the
								 * worker to see what it had said before */
	uint8		pin_reason;		/* PwPinReason */
	int			last_slot;		/* or PW_NONE */
	uint64		transactions;
	TimestampTz state_since;	/* last attach, park or pin */
	int64		last_wait;		/* for its slot, usecs; 0 if it got one before
								 * the worker has seen it waiting */
	TimestampTz idle_since;		/* its last command was answered */
	TimestampTz reload_seen;	/* configuration whose reported parameters the
								 * client knows */
	TimestampTz pinned_since;	/* keeps its slot, for whatever reasons; 0
								 * while it does not */
	char		application_name[NAMEDATALEN];
	PwShmTcpOptions tcp_options;	/* see tcp_options.c */

	/* Index plus one of the next leaver, 0 at the end of the list. */
	uint32		next_leaver;
} PwShmClient;

typedef struct PwShmSlot
{
	LWLock		lock;			/* see "Locking rules" */
	int			client;			/* attached client, or PW_NONE; under lock */
	bool		alive;			/* the backend may be signalled; under lock */
	bool		cold;			/* a client waited for it to be opened */
	pg_atomic_uint32 contended; /* waits for the worker's decision, CLAIMED */

	pg_atomic_uint32 activity;	/* PwSlotActivity */
	int			assigned;		/* written by the worker while CLAIMED, read
								 * by the slot when ASSIGNED */

	pg_atomic_uint64 command;	/* see time_limits.h */
	TimestampTz command_at;		/* the running command began; valid while one
								 * is RUNNING */
	TimestampTz answered_at;	/* the last one ended; valid while none is */
	TimestampTz transaction_at; /* the open transaction began, 0 if there is
								 * none */
	bool		copying;		/* in COPY FROM STDIN; by the slot */

	/* protected by control->lock */
	int			pid;			/* backend, 0 while it has not reported */
	int			pgprocno;		/* of that backend */
	int			pool;			/* index, PW_NONE while EMPTY */
	uint32		worker_generation;	/* of the worker that opened it */
	uint32		version;		/* of its pool, before it began to log in */
	bool		reserve;		/* beyond pool_size, for high priority only */

	/*
	 * It is to end as soon as nothing pins its client, and nobody is given to
	 * it any more.  Written by the worker, which then wakes the slot; or by a
	 * slot that yields, which ends at once.
	 */
	bool		leaving;
	uint8		retire_reason;	/* PwRetireReason; by the same, and before
								 * "leaving" */

	/* a question of the worker's, and the slot's answer: see slot_life.c */
	pg_atomic_uint32 asked;
	pg_atomic_uint32 answered;
	bool		is_worn;		/* has collected what it cannot get rid of */
	uint64		memory;			/* bytes in its memory contexts */

	/* written by the slot, or by the worker while EMPTY or OPENING */
	TimestampTz opened_at;
	TimestampTz state_since;	/* last change to or from IDLE or PINNED */
	uint8		pin_reason;		/* PwPinReason, of the current client */
	uint8		session_pin;	/* the same as of the end of its last
								 * transaction, if what pinned it then is the
								 * state of its session; else PW_PIN_NONE */
	uint64		transactions;	/* served since it was opened */
	uint64		attaches;		/* clients attached since it was opened */
	int64		wait_time;		/* of these clients before, usecs */
	int64		longest_wait;	/* of any of them, usecs */
} PwShmSlot;

typedef struct PwShmPool
{
	/* protected by control->lock */
	bool		in_use;
	Oid			dboid;
	Oid			roleoid;
	NameData	database;
	NameData	role;

	/* written by the worker, read by anyone */
	PwPoolSettings settings;	/* in force; see pool_settings.c */
	int			pool_size;		/* limits in force for this pool: of slots, */
	int			max_pinned;		/* and of pinned ones that do not count */
	int			share;			/* slots it is entitled to, see pool_share.c */
	int			slots;			/* open, opening not included */
	int			opening;
	int			clients;		/* authenticated, parked or attached */
	int			waiting;		/* clients that want a slot, and since when */
	TimestampTz waiting_since;	/* the first of them does, or 0; see queue.c */
	uint64		turned_away;	/* clients that were refused because others
								 * kept the slots */
	uint64		failed;			/* logins refused, slot logins failed, clients
								 * lost with their slot */
	uint64		past_transactions;	/* of slots that are gone */
	uint64		past_attaches;	/* likewise */
	int64		past_wait_time; /* likewise */
	int64		past_longest_wait;
	uint64		opened;			/* slots, since there is the pool */
	uint64		cold_slots;		/* opened while a client waited for one */
	uint64		unanswered;		/* slots that were given up */
	TimestampTz last_error_at;	/* 0 if the last slot login succeeded */
	char		last_error[PW_POOL_ERROR_LEN];	/* under control->lock */

	/*
	 * Grows by one when slots that are open or being opened have become
	 * stale; see pool_changes.c.  Written by the worker.
	 */
	pg_atomic_uint32 version;
	/* so many of its slots are to make room for others; see pool_share.c */
	pg_atomic_uint32 yield;
	/* grows when its role or database may have changed; see changes.c */
	pg_atomic_uint32 suspect;

	/*
	 * the worker looks at these of the pool's epoll sets; see dispatch.c
	 */
	pg_atomic_uint32 watched;
	/* a slot went idle while it did not; the worker clears it */
	pg_atomic_uint32 poked;
	/* clients in the epoll sets, as a hint: 0 saves a look */
	pg_atomic_uint32 parked;
	/* those of them in the high set, likewise */
	pg_atomic_uint32 parked_high;
	/* commands cancelled and clients ended, by PwTimeLimit and beyond */
	pg_atomic_uint64 enforced[PW_NENDS];
	/* slots in BUSY or PINNED, and the most there ever were */
	pg_atomic_uint32 active;
	pg_atomic_uint32 peak_active;
	/* wake the worker, once, when so many are active; see pool_size.c */
	pg_atomic_uint32 alarm_at;

	/* PwService, and since when; or since when there is the pool */
	pg_atomic_uint32 service;
	TimestampTz service_since;
} PwShmPool;

/*
 * A backend is carrying out a command for which nobody else may be connected
 * to this database; see changes.c.  More at a time than there are entries for
 * find the database in use.
 */
#define PW_MAX_HOLDS 16

typedef struct PwShmHold
{
	int			pid;			/* 0 if the entry is free */
	Oid			dboid;
} PwShmHold;

/*
 * Some pools by name, also such as do not exist yet.  An empty name stands for
 * all.
 */
typedef struct PwSelection
{
	NameData	database;
	NameData	role;
} PwSelection;

/* What an administrator asks for, and who it is. */
typedef struct PwRequest
{
	PwOperation operation;
	PwSelection pools;			/* of operations on pools */
	uint64		client;			/* of operations on a client */
	int			pid;
	NameData	role;
} PwRequest;

/* A request on its way; see mailbox.c. */
#define PW_MAX_REQUESTS 8

typedef struct PwShmRequest
{
	uint64		serial;			/* in the order of asking; 0 if free */
	bool		taken;			/* by the worker */
	PwAnswer	answer;
	PwRequest	request;
} PwShmRequest;

/* What pools that match are to do from their first client on. */
#define PW_MAX_ORDERS 32

typedef struct PwShmOrder
{
	PwSelection pools;
	PwService	service;
	TimestampTz since;
} PwShmOrder;

/*
 * The last departures, for slots to drop their copies of the descriptors.
 * Entry n is at ring[n % PW_DEPARTURES]; a slot that is further behind than
 * that looks at all the descriptors it holds.
 */
#define PW_DEPARTURES 1024

typedef struct PwShmControl
{
	LWLock		lock;			/* see "Locking rules" */

	/* protected by lock */
	int			worker_pid;		/* 0 while there is no worker */
	int			worker_pgprocno;
	uint32		worker_generation;	/* bumped each time a worker starts */
	TimestampTz worker_started_at;
	Oid			worker_dboid;	/* the worker is connected to it */
	bool		worker_connecting;	/* to its database; remains set if it
									 * failed */
	PwShmHold	holds[PW_MAX_HOLDS];
	PwShmRequest requests[PW_MAX_REQUESTS];
	uint64		last_request;	/* serial number */
	PwShmOrder	orders[PW_MAX_ORDERS];	/* a later one goes first */
	int			norders;

	/* grows whenever something of roles or databases has changed */
	pg_atomic_uint32 catalog_version;
	/* some pool is suspect, or a hold came or went; the worker clears it */
	pg_atomic_uint32 changed;
	/* how many lists of statements have a number; see statement_lists.h */
	pg_atomic_uint64 statement_lists;
	/* signalled whenever a slot becomes EMPTY */
	ConditionVariable slot_emptied;

	/* there are requests; the worker clears it */
	pg_atomic_uint32 mail;
	/* signalled when one is answered, and while one may be making progress */
	ConditionVariable progress;

	/* written by the worker at its start, read by anyone */
	int			fd_base;		/* client i has descriptor fd_base + i */
	int			wait_sets;		/* a slot may keep so many; see descriptors.c */
	int			client_limit;	/* authenticated clients: the setting
								 * max_clients, or less if the open file limit
								 * says so */
	int			clients;		/* authenticated */
	int			listening_port; /* 0 while nothing listens */
	int			listening_sockets;

	/* fixed at creation */
	int			max_pools;
	int			max_slots;
	int			max_clients;	/* entries: some more than the setting */
	Size		dsa_offset;		/* of the DSA area, from this struct */

	/* list of LEAVING clients: index plus one of the first, 0 if empty */
	pg_atomic_uint32 leavers;

	/* departures written so far; the worker writes the entry first */
	pg_atomic_uint64 departures;
	uint32		departed[PW_DEPARTURES];	/* client indexes */
} PwShmControl;

/* Set in every process when shared memory exists, else NULL. */
extern PwShmControl *PwControl;
extern PwShmPool *PwPools;
extern PwShmSlot *PwSlots;
extern PwShmClient *PwClients;

/*
 * Has something changed, since this slot began to log in, that its login
 * depends on?  Then it must not be given to anybody any more.
 */
static inline bool
pw_slot_is_stale(const PwShmSlot *slot, PwShmPool *pool)
{
	return slot->version != pg_atomic_read_u32(&pool->version);
}

/* Is this slot to end as soon as it can? */
static inline bool
pw_slot_is_ending(const PwShmSlot *slot, PwShmPool *pool)
{
	return slot->leaving || pw_slot_is_stale(slot, pool);
}

static inline PwService
pw_pool_service(PwShmPool *pool)
{
	return (PwService) pg_atomic_read_u32(&pool->service);
}

/* Is a pool of these names, or a narrower selection, one of these? */
static inline bool
pw_selection_covers(const PwSelection *selection, const NameData *database,
					const NameData *role)
{
	return (NameStr(selection->database)[0] == '\0' ||
			strcmp(NameStr(selection->database), NameStr(*database)) == 0) &&
		(NameStr(selection->role)[0] == '\0' ||
		 strcmp(NameStr(selection->role), NameStr(*role)) == 0);
}

/*
 * Does a client have high priority?  By its application from its login on; by
 * its role or database for as long as that is set.
 */
static inline bool
pw_client_is_high(const PwShmClient *client, const PwShmPool *pool)
{
	return client->high || pool->settings.priority == PW_PRIORITY_HIGH;
}

/* Which of the pool's epoll sets does this slot serve? */
static inline int
pw_slot_serves(const PwShmSlot *slot, const PwShmPool *pool)
{
	return slot->reserve && pool->settings.priority != PW_PRIORITY_HIGH ?
		PW_WATCH_HIGH : PW_WATCH_ALL;
}

extern const char *const pw_pin_reason_names[PW_PIN_NREASONS];
extern const char *const pw_retire_reason_names[PW_RETIRE_NREASONS];
extern const char *const pw_client_state_names[PW_CLIENT_NSTATES];
extern const char *const pw_slot_activity_names[PW_SLOT_NACTIVITIES];

/*
 * Ask for our shared memory (postmaster, from _PG_init) and set up the hooks
 * that do it.
 */
extern void pw_shared_state_request(void);

/* The number of slots that shared memory has room for, computed from settings. */
extern int	pw_shared_state_max_slots(void);

/*
 * The DSA area that holds the clients' startup settings.  Attaches on first
 * use; the mapping then lives as long as the process.
 */
extern dsa_area *pw_shared_area(void);

/*
 * Wake the worker, or the backend of a slot.  Harmless when there is none.
 * Takes control->lock, except that a slot or the worker calling about its own
 * counterpart may know better: these look up the PGPROC by number only, and
 * the worst that a stale number does is a spurious wakeup elsewhere.
 */
extern void pw_wake_worker(void);
extern void pw_wake_slot(int slot);

/*
 * Move a client's word from "from" to "state" if it is still "from".  False if
 * somebody else was faster.  An illegal move is refused with an error.  Keeps
 * the pool's count of parked clients.
 */
extern bool pw_client_move(PwShmClient *client, uint64 from,
						   PwClientState state, int slot);

/*
 * Since when a client that is PARKED, or was until just now, has been waiting
 * for a slot; 0 if it was not, or the worker had not seen that yet.
 */
static inline TimestampTz
pw_client_waiting_since(const PwShmClient *client)
{
	TimestampTz since = client->ready_since;

	return since >= client->parked_at ? since : 0;
}

/*
 * Hand a LEAVING client to the worker.  Never fails, never waits.  The worker
 * takes it when it next wakes; whoever knows of no reason why that would be
 * soon wakes it.
 */
extern void pw_client_push_leaver(int client);

/* Is there anybody on the list of leavers? */
extern bool pw_client_has_leavers(void);

/* Take the whole list of leavers; returns the first index plus one, or 0. */
extern uint32 pw_client_take_leavers(void);

#endif							/* PW_SHARED_STATE_H */
