/*-------------------------------------------------------------------------
 *
 * session_sequences.c
 *	  currval() and lastval(), taken along from slot to slot.
 *
 * Runs in: slots.
 *
 * What a session knows of its sequences is in a hash table of sequence.c, which
 * core_tables.c finds for us: the last value, and values that were drawn ahead
 * (CACHE).  Which sequence was the last one is a static pointer to one of its
 * entries.  Nobody can set that pointer but nextval(), and nobody can read it
 * but lastval(); but an entry can be given another key.  So in each slot one
 * entry, once nextval() has been there, is the last one for good: "last_entry",
 * and to make another sequence the last one we rename it.  Without a last one
 * its key is zero, which lastval() takes for a sequence that was dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "core_tables.h"
#include "session_sequences.h"

/* SeqTableData in sequence.c, PostgreSQL 15 to 18 */
typedef struct PwSequence
{
	Oid			relid;			/* key */
	Oid			filenode;		/* as last seen */
	LocalTransactionId lxid;	/* transaction that has last used it */
	bool		last_valid;		/* is there a last value? */
	int64		last;			/* returned by nextval() */
	int64		cached;			/* drawn ahead up to here */
	int64		increment;		/* undefined before the first nextval() */
} PwSequence;

/* The part: this, and then that many sequences. */
typedef struct PwSavedSequences
{
	int32		count;
	Oid			last_used;		/* InvalidOid if lastval() is not defined */
} PwSavedSequences;

/* What is in force, unless touched. */
static StringInfoData in_force;
static bool touched = false;
static bool changed = false;

/* The last one may be another one since. */
static bool drawn = false;

/* The entry that lastval() looks at, NULL if it looks at none. */
static PwSequence *last_entry = NULL;

static List *known_sequences(HTAB *table);
static bool is_known(const PwSequence *entry);
static bool find_last_entry(List *entries);
static bool lock_all(List *entries);
static PwSequence *ask_lastval(List *entries);
static int64 call_lastval(void);
static void forget_last(List *entries);
static void note(List *entries);
static bool exists(Oid relid);
static void clear_table(void);
static void set_last_used(Oid relid);
static PwSequence *make_last_entry(Oid relid);
static bool make_table(const PwSavedSequences *saved);
static void fill_table(const PwSavedSequences *saved);
static bool open_sequence(Oid relid);

void
pw_sequences_init(void)
{
	initStringInfo(&in_force);
}

void
pw_sequences_touch(void)
{
	touched = changed = true;
}

void
pw_sequences_drawn(void)
{
	touched = changed = drawn = true;
}

void
pw_sequences_forgotten(void)
{
	last_entry = NULL;
	touched = changed = true;
	drawn = false;
}

bool
pw_sequences_changed(void)
{
	return changed;
}

bool
pw_sequences_look(void)
{
	if (!touched)
		return true;
	if (!find_last_entry(known_sequences(pw_core_table(PW_TABLE_SEQUENCES))))
		return false;
	note(known_sequences(pw_core_table(PW_TABLE_SEQUENCES)));
	touched = false;
	return true;
}

static List *
known_sequences(HTAB *table)
{
	HASH_SEQ_STATUS scan;
	PwSequence *entry;
	List	   *entries = NIL;

	if (table == NULL)
		return NIL;
	hash_seq_init(&scan, table);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (is_known(entry))
			entries = lappend(entries, entry);
	return entries;
}

static bool
is_known(const PwSequence *entry)
{
	return OidIsValid(entry->relid) && (entry->last_valid || entry->last != entry->cached);
}

/*
 * Which entry does lastval() look at?  False if we would have to wait.
 */
static bool
find_last_entry(List *entries)
{
	if (!drawn || entries == NIL)
		return true;
	if (!lock_all(entries))
		return false;
	last_entry = ask_lastval(entries);
	if (last_entry == NULL)
		forget_last(entries);
	drawn = false;
	return true;
}

/*
 * lastval() locks its sequence, and we do not know which one that is.
 */
static bool
lock_all(List *entries)
{
	ListCell   *cell;

	foreach(cell, entries)
	{
		PwSequence *entry = lfirst(cell);

		if (exists(entry->relid) &&
			!ConditionalLockRelationOid(entry->relid, RowExclusiveLock))
			return false;
	}
	return true;
}

/*
 * Number the entries in place of their values: lastval() then returns a number.
 */
static PwSequence *
ask_lastval(List *entries)
{
	int64	   *values = palloc(sizeof(int64) * list_length(entries));
	ListCell   *cell;
	int64		number;

	foreach(cell, entries)
	{
		PwSequence *entry = lfirst(cell);

		values[foreach_current_index(cell)] = entry->last;
		entry->last = foreach_current_index(cell);
	}
	number = call_lastval();
	foreach(cell, entries)
		((PwSequence *) lfirst(cell))->last = values[foreach_current_index(cell)];
	pfree(values);
	return number < 0 ? NULL : list_nth(entries, number);
}

/*
 * -1 if lastval() is not defined.  It raises an error then, before it has done
 * anything that a transaction would have to undo.
 */
static int64
call_lastval(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	MemoryContext oldcontext = CurrentMemoryContext;
	volatile int64 result = -1;
	uint32		interrupt_holdoff = InterruptHoldoffCount;
	uint32		cancel_holdoff = QueryCancelHoldoffCount;
	Oid			user;
	int			security_context;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, security_context | SECURITY_LOCAL_USERID_CHANGE);
	PG_TRY();
	{
		result = DatumGetInt64(lastval(fcinfo));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		if (geterrcode() != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
			PG_RE_THROW();
		FlushErrorState();

		/* an error lets interrupts through again */
		InterruptHoldoffCount = interrupt_holdoff;
		QueryCancelHoldoffCount = cancel_holdoff;
	}
	PG_END_TRY();
	SetUserIdAndSecContext(user, security_context);
	return result;
}

/*
 * lastval() is not defined: what was last drawn from is gone, or nextval() has
 * failed.  Either way the pointer may be to an entry that we do not know, so
 * have PostgreSQL forget it together with all entries, and put these back.
 */
static void
forget_last(List *entries)
{
	const PwSavedSequences *saved;

	note(entries);
	ResetSequenceCaches();
	saved = (const PwSavedSequences *) in_force.data;
	if (make_table(saved))
		fill_table(saved);
}

/*
 * Bring "in_force" up to date.
 */
static void
note(List *entries)
{
	PwSavedSequences saved = {.count = list_length(entries),.last_used = InvalidOid};
	ListCell   *cell;

	resetStringInfo(&in_force);
	if (entries == NIL)
		return;
	if (last_entry != NULL)
		saved.last_used = last_entry->relid;
	appendBinaryStringInfo(&in_force, (char *) &saved, sizeof(saved));
	foreach(cell, entries)
	{
		PwSequence	copy;

		memset(&copy, 0, sizeof(copy));
		copy.relid = ((PwSequence *) lfirst(cell))->relid;
		copy.filenode = ((PwSequence *) lfirst(cell))->filenode;
		copy.last_valid = ((PwSequence *) lfirst(cell))->last_valid;
		copy.last = ((PwSequence *) lfirst(cell))->last;
		copy.cached = ((PwSequence *) lfirst(cell))->cached;
		copy.increment = ((PwSequence *) lfirst(cell))->increment;
		appendBinaryStringInfo(&in_force, (char *) &copy, sizeof(copy));
	}
}

void
pw_sequences_capture(StringInfo part)
{
	changed = false;
	appendBinaryStringInfo(part, in_force.data, in_force.len);
}

void
pw_sequences_apply(const char *part, size_t len)
{
	const PwSavedSequences *saved = (const PwSavedSequences *) part;

	changed = drawn = false;
	if (touched)
	{
		/* a client that has left: start anew */
		ResetSequenceCaches();
		last_entry = NULL;
	}
	else if (in_force.len == len && memcmp(in_force.data, part, len) == 0)
		return;

	/* if this fails, the next call starts anew as well */
	touched = true;
	clear_table();
	if (len > 0)
	{
		set_last_used(saved->last_used);
		if (make_table(saved))
			fill_table(saved);
	}
	note(known_sequences(pw_core_table(PW_TABLE_SEQUENCES)));
	touched = false;
}

/*
 * Forget all sequences.  The last entry must stay where it is, under a key
 * that is no sequence's.
 */
static void
clear_table(void)
{
	HTAB	   *table = pw_core_table(PW_TABLE_SEQUENCES);
	Oid			no_sequence = InvalidOid;
	HASH_SEQ_STATUS scan;
	PwSequence *entry;

	if (table == NULL)
		return;
	hash_seq_init(&scan, table);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry != last_entry)
			(void) hash_search(table, &entry->relid, HASH_REMOVE, NULL);
	if (last_entry == NULL || !OidIsValid(last_entry->relid))
		return;
	(void) hash_update_hash_key(table, last_entry, &no_sequence);
	last_entry->last_valid = false;
	last_entry->cached = last_entry->last;
}

static void
set_last_used(Oid relid)
{
	if (!OidIsValid(relid))
		return;
	if (last_entry != NULL)
		(void) hash_update_hash_key(pw_core_table(PW_TABLE_SEQUENCES), last_entry, &relid);
	else if (open_sequence(relid))
		last_entry = make_last_entry(relid);
}

/*
 * Have nextval() point to the entry of a sequence, by letting it believe that
 * a value was drawn ahead.
 */
static PwSequence *
make_last_entry(Oid relid)
{
	HTAB	   *table = pw_core_table(PW_TABLE_SEQUENCES);
	PwSequence *entry = hash_search(table, &relid, HASH_FIND, NULL);
	MemoryContext oldcontext = CurrentMemoryContext;

	entry->last_valid = true;
	entry->increment = 1;
	entry->last = 0;
	entry->cached = 1;
	StartTransactionCommand();
	XactReadOnly = false;
	(void) nextval_internal(relid, false);
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
	return entry;
}

/*
 * Have PostgreSQL create its table.  False if there is nothing to put into it,
 * because the sequences are gone.
 */
static bool
make_table(const PwSavedSequences *saved)
{
	const PwSequence *sequences = (const PwSequence *) (saved + 1);

	for (int i = 0; i < saved->count; i++)
		if (pw_core_table(PW_TABLE_SEQUENCES) == NULL)
			(void) open_sequence(sequences[i].relid);
	return pw_core_table(PW_TABLE_SEQUENCES) != NULL;
}

static void
fill_table(const PwSavedSequences *saved)
{
	const PwSequence *sequences = (const PwSequence *) (saved + 1);
	HTAB	   *table = pw_core_table(PW_TABLE_SEQUENCES);

	for (int i = 0; i < saved->count; i++)
	{
		PwSequence *entry = hash_search(table, &sequences[i].relid, HASH_ENTER, NULL);

		*entry = sequences[i];
	}
}

/*
 * Let sequence.c make an entry for a sequence, with its current file.  False
 * if the sequence is gone.
 */
static bool
open_sequence(Oid relid)
{
	LOCAL_FCINFO(fcinfo, 1);
	Oid			user;
	int			security_context;
	bool		in_transaction = IsTransactionState();
	MemoryContext oldcontext = CurrentMemoryContext;
	bool		found;

	if (!in_transaction)
		StartTransactionCommand();
	found = exists(relid);
	if (found)
	{
		InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
		fcinfo->args[0].value = ObjectIdGetDatum(relid);
		fcinfo->args[0].isnull = false;
		GetUserIdAndSecContext(&user, &security_context);
		SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, security_context | SECURITY_LOCAL_USERID_CHANGE);
		(void) pg_sequence_last_value(fcinfo);
		SetUserIdAndSecContext(user, security_context);
	}
	if (!in_transaction)
		CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
	return found;
}

static bool
exists(Oid relid)
{
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid));
}
