/*-------------------------------------------------------------------------
 *
 * session_libraries.c
 *	  The libraries that a client has loaded, loaded again where it goes.
 *
 * Runs in: slots.
 *
 * A library is never unloaded, and what it does can be seen: its settings
 * exist, and it may have hooks.  So a slot into which a client has loaded one
 * serves only clients with the same, and ends when another one is to come.
 * That is about LOAD; those that belong to functions in C come into any session
 * by themselves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/memutils.h"

#include "session_libraries.h"

/* The attached client's: names as given to LOAD, each with its terminator. */
static StringInfoData libraries;
static bool changed = false;

/* Names that were loaded into this backend, whoever wanted them. */
static List *loaded = NIL;

static void load(const char *filename);
static bool contains(const char *names, size_t len, const char *filename);
static bool is_loaded(const char *filename);
static void remember(const char *filename);

void
pw_libraries_init(void)
{
	initStringInfo(&libraries);
}

void
pw_library_loaded(const char *filename)
{
	remember(filename);
	if (contains(libraries.data, libraries.len, filename))
		return;
	appendBinaryStringInfo(&libraries, filename, strlen(filename) + 1);
	changed = true;
}

bool
pw_libraries_changed(void)
{
	return changed;
}

void
pw_libraries_capture(StringInfo part)
{
	changed = false;
	appendBinaryStringInfo(part, libraries.data, libraries.len);
}

void
pw_libraries_apply(const char *part, size_t len)
{
	changed = false;
	if (libraries.len == len && memcmp(libraries.data, part, len) == 0)
		return;
	for (const char *name = part; name < part + len; name += strlen(name) + 1)
		load(name);
	resetStringInfo(&libraries);
	appendBinaryStringInfo(&libraries, part, len);
}

/*
 * Some libraries look into catalogs when they are loaded.
 */
static void
load(const char *filename)
{
	MemoryContext oldcontext = CurrentMemoryContext;

	if (is_loaded(filename))
		return;
	StartTransactionCommand();
	load_file(filename, false);
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
	remember(filename);
}

bool
pw_libraries_are_foreign(const char *part, size_t len)
{
	ListCell   *cell;

	foreach(cell, loaded)
		if (!contains(part, len, lfirst(cell)))
		return true;
	return false;
}

static bool
contains(const char *names, size_t len, const char *filename)
{
	for (const char *name = names; name < names + len; name += strlen(name) + 1)
		if (strcmp(name, filename) == 0)
			return true;
	return false;
}

static bool
is_loaded(const char *filename)
{
	ListCell   *cell;

	foreach(cell, loaded)
		if (strcmp((const char *) lfirst(cell), filename) == 0)
		return true;
	return false;
}

static void
remember(const char *filename)
{
	MemoryContext oldcontext;

	if (is_loaded(filename))
		return;
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	loaded = lappend(loaded, pstrdup(filename));
	MemoryContextSwitchTo(oldcontext);
}
