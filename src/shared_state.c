/*-------------------------------------------------------------------------
 *
 * shared_state.c
 *	  Creation of pool_worker's shared memory, and the few operations on it
 *	  that more than one module needs.
 *
 * Runs in: postmaster (sizing and creation), pool worker, slots, and every
 * backend that calls one of our SQL functions.
 *
 * The layout and the locking rules are in shared_state.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "compat.h"
#include "settings.h"
#include "shared_state.h"

/*
 * The part of the DSA area that lives in the main shared memory segment.
 * Startup settings of a client are rarely longer than 100 bytes; beyond this
 * size the area grows by dynamic shared memory.
 */
#define PW_AREA_SIZE (512 * 1024)

#define PW_LOCK_TRANCHE_NAME "pool_worker"
#define PW_AREA_TRANCHE_NAME "pool_worker_area"

/* What precedes the arrays: the tranche numbers are the postmaster's choice. */
typedef struct PwShmHeader
{
	int			lock_tranche;
	int			area_tranche;
} PwShmHeader;

PwShmControl *PwControl = NULL;
PwShmPool  *PwPools = NULL;
PwShmSlot  *PwSlots = NULL;
PwShmClient *PwClients = NULL;

static PwShmHeader *header = NULL;
static dsa_area *area = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Legal moves of a client: bit n of entry s is set if s may be followed by n. */
#define TO(s) (1 << (s))
static const uint8 client_moves[PW_CLIENT_NSTATES] = {
	[PW_CLIENT_FREE] = TO(PW_CLIENT_ADMITTING),
	[PW_CLIENT_ADMITTING] = TO(PW_CLIENT_PARKED) | TO(PW_CLIENT_CLOSING),
	[PW_CLIENT_PARKED] = TO(PW_CLIENT_ATTACHED) | TO(PW_CLIENT_HELD) |
	TO(PW_CLIENT_CLOSING),
	[PW_CLIENT_HELD] = TO(PW_CLIENT_PARKED) | TO(PW_CLIENT_CLOSING),
	[PW_CLIENT_ATTACHED] = TO(PW_CLIENT_PARKED) | TO(PW_CLIENT_LEAVING) |
	TO(PW_CLIENT_CLOSING),
	[PW_CLIENT_LEAVING] = TO(PW_CLIENT_CLOSING) | TO(PW_CLIENT_PARKED),
	[PW_CLIENT_CLOSING] = TO(PW_CLIENT_FREE),
};

const char *const pw_retire_reason_names[] = {
	[PW_RETIRE_NONE] = NULL,
	[PW_RETIRE_AGE] = "slot_lifetime",
	[PW_RETIRE_TRANSACTIONS] = "slot_max_transactions",
	[PW_RETIRE_MEMORY] = "slot_max_memory",
	[PW_RETIRE_WORN] = "placeholders",
	[PW_RETIRE_RECYCLED] = "recycled",
	[PW_RETIRE_SURPLUS] = "pool size",
	[PW_RETIRE_NO_ANSWER] = "no answer",
	[PW_RETIRE_YIELDS] = "fair sharing",
};

const char *const pw_client_state_names[PW_CLIENT_NSTATES] = {
	[PW_CLIENT_FREE] = "free",
	[PW_CLIENT_ADMITTING] = "admitting",
	[PW_CLIENT_PARKED] = "parked",
	[PW_CLIENT_HELD] = "parked",
	[PW_CLIENT_ATTACHED] = "attached",
	[PW_CLIENT_LEAVING] = "leaving",
	[PW_CLIENT_CLOSING] = "closing",
};

const char *const pw_slot_activity_names[PW_SLOT_NACTIVITIES] = {
	[PW_SLOT_EMPTY] = "empty",
	[PW_SLOT_OPENING] = "opening",
	[PW_SLOT_IDLE] = "idle",
	[PW_SLOT_CLAIMED] = "claimed",
	[PW_SLOT_ASSIGNED] = "assigned",
	[PW_SLOT_BUSY] = "active",
	[PW_SLOT_PINNED] = "pinned",
	[PW_SLOT_GONE] = "gone",
};

const char *const pw_pin_reason_names[PW_PIN_NREASONS] = {
	[PW_PIN_NONE] = "",
	[PW_PIN_SESSION_MODE] = "session mode",
	[PW_PIN_TRANSACTION] = "transaction",
	[PW_PIN_TEMPORARY_OBJECTS] = "temporary objects",
	[PW_PIN_SESSION_LOCKS] = "session locks",
	[PW_PIN_CURSORS] = "holdable cursors",
	[PW_PIN_LISTEN] = "listen",
	[PW_PIN_SEQUENCES] = "sequence values",
	[PW_PIN_RANDOM_SEED] = "random seed",
	[PW_PIN_OTHER] = "other session state",
	[PW_PIN_SESSION_SIZE] = "session size",
	[PW_PIN_REQUESTED] = "requested by pool_pin()",
	[PW_PIN_INPUT] = "unread commands",
};

static void shared_state_request(void);
static void shared_state_startup(void);
static Size shared_state_size(void);
static int	client_entries(void);
static void set_pointers(char *base);
static void init_control(void);
static void init_entries(void);
static void count_parked(const PwShmClient *client, int change);

/*
 * Ask for our shared memory; see shared_state.h.
 */
void
pw_shared_state_request(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shared_state_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shared_state_startup;
}

/*
 * How many slots there is room for.
 *
 * By default three quarters of what max_connections leaves after the reserved
 * ones, so that direct connections find room beside a pool that is in full
 * use.
 */
int
pw_shared_state_max_slots(void)
{
	int			available = MaxConnections - PW_RESERVED_CONNECTIONS;

	if (pw_max_slots >= 0)
		return pw_max_slots;
	return Max(1, available * 3 / 4);
}

static void
shared_state_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_state_size());
}

static Size
shared_state_size(void)
{
	Size		size = MAXALIGN(sizeof(PwShmHeader));

	size = add_size(size, CACHELINEALIGN(sizeof(PwShmControl)));
	size = add_size(size, CACHELINEALIGN(mul_size(pw_max_pools, sizeof(PwShmPool))));
	size = add_size(size, CACHELINEALIGN(mul_size(pw_shared_state_max_slots(), sizeof(PwShmSlot))));
	size = add_size(size, CACHELINEALIGN(mul_size(client_entries(), sizeof(PwShmClient))));
	return add_size(size, PW_AREA_SIZE + PG_CACHE_LINE_SIZE);
}

static int
client_entries(void)
{
	return pw_max_clients + PW_SPARE_CLIENTS;
}

/*
 * Create our shared memory, or find it in a crash restart.
 */
static void
shared_state_startup(void)
{
	bool		found;
	char	   *base;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	base = ShmemInitStruct("pool_worker", shared_state_size(), &found);
	set_pointers(base);
	if (!found)
	{
		header->lock_tranche = LWLockNewTrancheId();
		header->area_tranche = LWLockNewTrancheId();
		init_control();
		init_entries();
	}
	LWLockRelease(AddinShmemInitLock);

	LWLockRegisterTranche(header->lock_tranche, PW_LOCK_TRANCHE_NAME);
	LWLockRegisterTranche(header->area_tranche, PW_AREA_TRANCHE_NAME);
}

/*
 * Find the parts of our shared memory.  Runs in the postmaster; every other
 * process inherits the pointers by fork.
 */
static void
set_pointers(char *base)
{
	char	   *next = base;

	header = (PwShmHeader *) next;
	next += MAXALIGN(sizeof(PwShmHeader));
	PwControl = (PwShmControl *) CACHELINEALIGN(next);
	next = (char *) PwControl + CACHELINEALIGN(sizeof(PwShmControl));
	PwPools = (PwShmPool *) next;
	next += CACHELINEALIGN(pw_max_pools * sizeof(PwShmPool));
	PwSlots = (PwShmSlot *) next;
	next += CACHELINEALIGN(pw_shared_state_max_slots() * sizeof(PwShmSlot));
	PwClients = (PwShmClient *) next;
	next += CACHELINEALIGN(client_entries() * sizeof(PwShmClient));
	PwControl->dsa_offset = next - (char *) PwControl;
}

static void
init_control(void)
{
	Size		area_offset = PwControl->dsa_offset;
	char	   *area_place = (char *) PwControl + area_offset;
	dsa_area   *created;

	memset(PwControl, 0, sizeof(PwShmControl));
	PwControl->dsa_offset = area_offset;
	LWLockInitialize(&PwControl->lock, header->lock_tranche);
	PwControl->max_pools = pw_max_pools;
	PwControl->max_slots = pw_shared_state_max_slots();
	PwControl->max_clients = client_entries();
	pg_atomic_init_u32(&PwControl->catalog_version, 1);
	pg_atomic_init_u32(&PwControl->changed, 0);
	pg_atomic_init_u64(&PwControl->statement_lists, 0);
	ConditionVariableInit(&PwControl->slot_emptied);
	pg_atomic_init_u32(&PwControl->mail, 0);
	ConditionVariableInit(&PwControl->progress);
	pg_atomic_init_u32(&PwControl->leavers, 0);
	pg_atomic_init_u64(&PwControl->departures, 0);

	/*
	 * Create the area as pgstat_shmem.c does: without dynamic segments for
	 * the moment, for the postmaster has none of the machinery they need.
	 */
	created = dsa_create_in_place(area_place, PW_AREA_SIZE, header->area_tranche, NULL);
	dsa_pin(created);
	dsa_detach(created);
}

static void
init_entries(void)
{
	memset(PwPools, 0, sizeof(PwShmPool) * PwControl->max_pools);
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		pg_atomic_init_u32(&PwPools[i].version, 0);
		pg_atomic_init_u32(&PwPools[i].yield, 0);
		pg_atomic_init_u32(&PwPools[i].suspect, 0);
		pg_atomic_init_u32(&PwPools[i].watched, 0);
		pg_atomic_init_u32(&PwPools[i].poked, 0);
		pg_atomic_init_u32(&PwPools[i].parked, 0);
		pg_atomic_init_u32(&PwPools[i].parked_high, 0);
		pg_atomic_init_u32(&PwPools[i].active, 0);
		pg_atomic_init_u32(&PwPools[i].peak_active, 0);
		pg_atomic_init_u32(&PwPools[i].alarm_at, PG_UINT32_MAX);
		pg_atomic_init_u32(&PwPools[i].service, PW_SERVICE_OPEN);
		for (int limit = 0; limit < PW_NENDS; limit++)
			pg_atomic_init_u64(&PwPools[i].enforced[limit], 0);
	}

	memset(PwSlots, 0, sizeof(PwShmSlot) * PwControl->max_slots);
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		LWLockInitialize(&PwSlots[i].lock, header->lock_tranche);
		pg_atomic_init_u32(&PwSlots[i].activity, PW_SLOT_EMPTY);
		pg_atomic_init_u32(&PwSlots[i].contended, 0);
		pg_atomic_init_u32(&PwSlots[i].asked, 0);
		pg_atomic_init_u32(&PwSlots[i].answered, 0);
		pg_atomic_init_u64(&PwSlots[i].command, PW_COMMAND_IDLE(0));
		PwSlots[i].client = PW_NONE;
		PwSlots[i].assigned = PW_NONE;
		PwSlots[i].pool = PW_NONE;
	}

	memset(PwClients, 0, sizeof(PwShmClient) * PwControl->max_clients);
	for (int i = 0; i < PwControl->max_clients; i++)
	{
		pg_atomic_init_u64(&PwClients[i].word,
						   PW_CLIENT_WORD(0, PW_CLIENT_FREE, PW_NONE));
		PwClients[i].pool = PW_NONE;
		PwClients[i].last_slot = PW_NONE;
		PwClients[i].settings = InvalidDsaPointer;
	}
}

/*
 * The DSA area; see shared_state.h.
 */
dsa_area *
pw_shared_area(void)
{
	if (area == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		area = dsa_attach_in_place((char *) PwControl + PwControl->dsa_offset, NULL);
		dsa_pin_mapping(area);
		MemoryContextSwitchTo(oldcontext);
	}
	return area;
}

/*
 * Wake the worker.
 *
 * The number is read without a lock.  A worker that comes or goes just now
 * misses nothing: a new one looks at everything when it starts.
 */
void
pw_wake_worker(void)
{
	if (PwControl->worker_pid != 0)
		SetLatch(&GetPGProcByNumber(PwControl->worker_pgprocno)->procLatch);
}

/*
 * Wake the backend of a slot.  Only for the worker, which alone reuses slots.
 */
void
pw_wake_slot(int slot)
{
	if (PwSlots[slot].pid != 0)
		SetLatch(&GetPGProcByNumber(PwSlots[slot].pgprocno)->procLatch);
}

/*
 * Move a client to another state; see shared_state.h.
 *
 * The compare-and-swap is a full barrier, so whoever finds the new word also
 * finds what the previous owner wrote before.
 */
bool
pw_client_move(PwShmClient *client, uint64 from, PwClientState state, int slot)
{
	uint32		generation = PW_WORD_GENERATION(from);
	PwClientState old = PW_WORD_STATE(from);
	bool		moved;

	if ((client_moves[PW_WORD_STATE(from)] & TO(state)) == 0)
		elog(ERROR, "pool client cannot go from %s to %s",
			 pw_client_state_names[PW_WORD_STATE(from)],
			 pw_client_state_names[state]);

	if (state == PW_CLIENT_ADMITTING)
		generation++;

	/* count it before others can see it, and until they cannot any more */
	if (state == PW_CLIENT_PARKED)
		count_parked(client, 1);
	moved = pg_atomic_compare_exchange_u64(&client->word, &from,
										   PW_CLIENT_WORD(generation, state, slot));
	if (moved ? old == PW_CLIENT_PARKED : state == PW_CLIENT_PARKED)
		count_parked(client, -1);
	return moved;
}

static void
count_parked(const PwShmClient *client, int change)
{
	PwShmPool  *pool = &PwPools[client->pool];

	pg_atomic_fetch_add_u32(&pool->parked, change);
	if (client->high)
		pg_atomic_fetch_add_u32(&pool->parked_high, change);
}

/*
 * Put a client on the list of leavers.
 *
 * A stack with many pushers and one taker that takes all of it: an entry
 * cannot leave and come back between the read and the swap of a pusher,
 * because only its own owner pushes it, so there is no ABA problem.
 */
void
pw_client_push_leaver(int client)
{
	uint32		head = pg_atomic_read_u32(&PwControl->leavers);

	do
		PwClients[client].next_leaver = head;
	while (!pg_atomic_compare_exchange_u32(&PwControl->leavers, &head, client + 1));
}

bool
pw_client_has_leavers(void)
{
	return pg_atomic_read_u32(&PwControl->leavers) != 0;
}

uint32
pw_client_take_leavers(void)
{
	if (!pw_client_has_leavers())
		return 0;
	return pg_atomic_exchange_u32(&PwControl->leavers, 0);
}
