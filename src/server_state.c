/*-------------------------------------------------------------------------
 *
 * server_state.c
 *	  Whether the server is about to stop.
 *
 * Runs in: pool worker.
 *
 * In a smart shutdown, the postmaster lets nobody in any more and waits until
 * all client backends have gone.  It signals nobody, and for a background worker
 * there is nothing to be seen in shared memory.  But slots are client backends:
 * if nobody retired them, the server would wait for ever.  What the postmaster
 * says about itself is in a line of its lock file, where pg_ctl reads it too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "storage/fd.h"
#include "utils/pidfile.h"
#include "utils/timestamp.h"

#include "event_loop.h"
#include "server_state.h"
#include "shared_state.h"

/* In the data directory, which is where every process of the server works. */
#define LOCK_FILE "postmaster.pid"

/* How often to look, ms. */
#define LOOK_AGAIN_MS 100

static bool lock_file_says(const char *status);
static const char *find_line(const char *content, int number);

bool
pw_server_is_stopping(void)
{
	static bool stopping = false;
	static TimestampTz looked_at = 0;

	if (stopping ||
		!TimestampDifferenceExceeds(looked_at, pw_loop_now(), LOOK_AGAIN_MS))
		return stopping;
	looked_at = pw_loop_now();
	stopping = lock_file_says(PM_STATUS_STOPPING);
	if (stopping)
		ereport(LOG,
				(errmsg("connection pool lets nobody in any more, because the server is shutting down"),
				 errdetail("Clients connected: %d.", PwControl->clients)));
	return stopping;
}

/*
 * A file that cannot be read says nothing.
 */
static bool
lock_file_says(const char *status)
{
	char		content[2 * MAXPGPATH];
	int			fd = BasicOpenFile(LOCK_FILE, O_RDONLY | PG_BINARY);
	ssize_t		len;
	const char *line;

	if (fd < 0)
		return false;
	len = read(fd, content, sizeof(content) - 1);
	close(fd);
	content[Max(len, 0)] = '\0';

	line = find_line(content, LOCK_FILE_LINE_PM_STATUS);
	return line != NULL && strncmp(line, status, strlen(status)) == 0;
}

/* NULL if there are not so many. */
static const char *
find_line(const char *content, int number)
{
	while (content != NULL && --number > 0)
	{
		content = strchr(content, '\n');
		if (content != NULL)
			content++;
	}
	return content;
}
