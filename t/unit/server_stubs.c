/*-------------------------------------------------------------------------
 *
 * server_stubs.c
 *	  The few functions of the server that protocol.c and startup_packet.c
 *	  call, for programs without a server.
 *
 * Runs in: test programs without a server.
 *
 * StringInfo and the like come from libpgcommon.  Memory is allocated piece by
 * piece with malloc(), so that AddressSanitizer sees the end of each, and
 * freed all at once, as the server does with a memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "unit.h"

#define MAX_PIECES 65536

static void *pieces[MAX_PIECES];
static int	npieces = 0;

/*
 * Remember a piece of memory.
 */
static void *
keep(void *piece)
{
	if (piece == NULL || npieces == MAX_PIECES)
		abort();
	pieces[npieces++] = piece;
	return piece;
}

void
unit_reset_memory(void)
{
	while (npieces > 0)
		free(pieces[--npieces]);
}

void *
palloc(Size size)
{
	return keep(malloc(size));
}

void *
palloc0(Size size)
{
	return keep(calloc(1, size));
}

void
pfree(void *pointer)
{
	for (int i = npieces - 1; i >= 0; i--)
	{
		if (pieces[i] != pointer)
			continue;
		pieces[i] = pieces[--npieces];
		free(pointer);
		return;
	}
	abort();
}

void *
repalloc(void *pointer, Size size)
{
	for (int i = npieces - 1; i >= 0; i--)
	{
		if (pieces[i] != pointer)
			continue;
		pieces[i] = realloc(pointer, size);
		return pieces[i];
	}
	abort();
}

char *
pnstrdup(const char *in, Size len)
{
	return keep(strndup(in, len));
}

char *
pstrdup(const char *in)
{
	return keep(strdup(in));
}

/* from libpgcommon's side */
void	   *pg_malloc(size_t size);

void *
pg_malloc(size_t size)
{
	return palloc(size);
}

/* The server knows unambiguous prefixes, too; that is not ours to test. */
bool
parse_bool(const char *value, bool *result)
{
	static const char *const names[] = {"false", "off", "no", "0",
	"true", "on", "yes", "1"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcasecmp(value, names[i]) != 0)
			continue;
		*result = i >= lengthof(names) / 2;
		return true;
	}
	return false;
}

/* as in postinit.c */
void
pg_split_opts(char **argv, int *argcp, const char *optstr)
{
	StringInfoData s;

	initStringInfo(&s);
	while (*optstr)
	{
		bool		last_was_escape = false;

		resetStringInfo(&s);
		while (isspace((unsigned char) *optstr))
			optstr++;
		if (*optstr == '\0')
			break;
		for (; *optstr; optstr++)
		{
			if (isspace((unsigned char) *optstr) && !last_was_escape)
				break;
			if (!last_was_escape && *optstr == '\\')
				last_was_escape = true;
			else
			{
				last_was_escape = false;
				appendStringInfoChar(&s, *optstr);
			}
		}
		argv[(*argcp)++] = pstrdup(s.data);
	}
	pfree(s.data);
}
