/*-------------------------------------------------------------------------
 *
 * listen.c
 *	  The pool's own port: TCP and Unix sockets.
 *
 * Runs in: pool worker.
 *
 * StreamServerPort() does the work, so that lock files, stale socket files,
 * permissions and messages are the server's own.  It leaves one thing to us:
 * the lists by which the postmaster removes its socket files at exit came to
 * us by fork, together with the files of the postmaster itself.  So we must
 * never call RemoveSocketFiles(), and remove just our own files by name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "libpq/libpq.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "event_loop.h"
#include "listen.h"
#include "settings.h"
#include "shared_state.h"

#define MAX_LISTENERS 64

/* how long to wait before trying again to open what could not be opened */
#define RETRY_MS 5000

static PwAcceptFn accept_callback = NULL;
static void (*accept_failed) (void) = NULL;

static int	nsockets = 0;
static pgsocket sockets[MAX_LISTENERS];
static PwWatch watches[MAX_LISTENERS];

/* what the sockets were opened for, to notice a change */
static int	current_port = 0;
static char *current_addresses = NULL;
static char *current_directories = NULL;

/*
 * Unix socket files of ours, each with its lock file.  An array, and the count
 * set last, because pw_listen_quit() reads it from a signal handler.
 */
typedef struct PwSocketFile
{
	char		socket[UNIXSOCK_PATH_BUFLEN];
	char		lock[UNIXSOCK_PATH_BUFLEN + sizeof(".lock")];
} PwSocketFile;

static PwSocketFile socket_files[MAX_LISTENERS];
static volatile sig_atomic_t nsocket_files = 0;

static PwTimer retry_timer;
static bool trouble_reported = false;

static bool open_all(void);
static bool open_addresses(void);
static bool open_directories(void);
static bool open_one(int family, const char *host, const char *directory);
static bool socket_is_taken(const char *directory);
static void remember_socket_file(const char *directory);
static void report_trouble(void);
static void retry(void *arg);
static void accept_ready(void *arg, int ready);
static void accept_gave_up(void *arg);
static const char *socket_directories(void);
static void publish(void);

void
pw_listen_init(PwAcceptFn accept_fn, void (*failed) (void))
{
	accept_callback = accept_fn;
	accept_failed = failed;
	for (int i = 0; i < MAX_LISTENERS; i++)
		watches[i].fd = -1;
}

void
pw_listen_update(void)
{
	if (nsockets > 0 && current_port == pw_port &&
		strcmp(current_addresses, pw_listen_addresses) == 0 &&
		strcmp(current_directories, socket_directories()) == 0)
		return;

	pw_listen_close();
	current_port = pw_port;
	current_addresses = MemoryContextStrdup(TopMemoryContext, pw_listen_addresses);
	current_directories = MemoryContextStrdup(TopMemoryContext, socket_directories());
	trouble_reported = false;
	retry(NULL);
}

void
pw_listen_close(void)
{
	for (int i = 0; i < nsockets; i++)
	{
		pw_watch_remove(&watches[i]);
		closesocket(sockets[i]);
		ReleaseExternalFD();
	}
	nsockets = 0;
	pw_listen_quit();
	nsocket_files = 0;

	pw_timer_disarm(&retry_timer);
	if (current_addresses)
		pfree(current_addresses);
	if (current_directories)
		pfree(current_directories);
	current_addresses = current_directories = NULL;
	publish();
}

void
pw_listen_quit(void)
{
	for (int i = 0; i < nsocket_files; i++)
	{
		unlink(socket_files[i].socket);
		unlink(socket_files[i].lock);
	}
}

/*
 * Timer callback, and the first try.  If nothing could be opened, try again
 * later; if something could, be content with that, as the server is.
 */
static void
retry(void *arg)
{
	bool		complete = open_all();

	for (int i = 0; i < nsockets; i++)
		if (watches[i].fd < 0)
			pw_watch_add(&watches[i], sockets[i], PW_READ, accept_ready,
						 accept_gave_up, &watches[i]);
	publish();

	if (nsockets == 0)
	{
		report_trouble();
		pw_timer_arm(&retry_timer, TimestampTzPlusMilliseconds(pw_loop_now(), RETRY_MS),
					 retry, retry, NULL);
	}
	else if (!complete)
		report_trouble();
}

static bool
open_all(void)
{
	bool		addresses = open_addresses();
	bool		directories = open_directories();

	return addresses && directories;
}

static bool
open_addresses(void)
{
	char	   *list = pstrdup(current_addresses);
	List	   *names;
	ListCell   *cell;
	bool		success = true;

	if (!SplitGUCList(list, ',', &names))
		return false;			/* the check hook does not let this happen */

	foreach(cell, names)
	{
		const char *name = (const char *) lfirst(cell);

		if (!open_one(AF_UNSPEC, strcmp(name, "*") == 0 ? NULL : name, NULL))
			success = false;
	}
	return success;
}

static bool
open_directories(void)
{
	char	   *list = pstrdup(current_directories);
	List	   *names;
	ListCell   *cell;
	bool		success = true;

	if (!SplitDirectoriesString(list, ',', &names))
		return false;

	foreach(cell, names)
	{
		if (!socket_is_taken((const char *) lfirst(cell)) &&
			open_one(AF_UNIX, NULL, (const char *) lfirst(cell)))
			remember_socket_file((const char *) lfirst(cell));
		else
			success = false;
	}
	return success;
}

/*
 * Open the sockets of one address, which may be several.  False if there are
 * none; the server's code has logged why.
 */
static bool
open_one(int family, const char *host, const char *directory)
{
	int			before = nsockets;
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	(void) pw_stream_server_port(family, host, (uint16) current_port, directory,
								 sockets, &nsockets, MAX_LISTENERS);
	MemoryContextSwitchTo(oldcontext);

	for (int i = before; i < nsockets; i++)
	{
		ReserveExternalFD();
		(void) pg_set_noblock(sockets[i]);
	}
	return nsockets > before;
}

/*
 * Does a living process hold the lock file of this socket?
 *
 * The server's code stops the process with a FATAL in that case, which is
 * right for a postmaster, but would restart us for ever.
 */
static bool
socket_is_taken(const char *directory)
{
	char		path[MAXPGPATH];
	char		lock_file[MAXPGPATH + 8];
	FILE	   *file;
	int			pid = 0;
	int			fields;

	UNIXSOCK_PATH(path, current_port, directory);
	snprintf(lock_file, sizeof(lock_file), "%s.lock", path);
	file = AllocateFile(lock_file, "r");
	if (file == NULL)
		return false;
	fields = fscanf(file, "%d", &pid);
	FreeFile(file);

	pid = abs(pid);
	if (fields != 1 || pid == 0 || pid == MyProcPid || pid == PostmasterPid ||
		(kill(pid, 0) < 0 && errno == ESRCH))
		return false;
	ereport(LOG,
			(errcode(ERRCODE_LOCK_FILE_EXISTS),
			 errmsg("socket file \"%s\" is in use by process %d", path, pid)));
	return true;
}

static void
remember_socket_file(const char *directory)
{
	PwSocketFile *file = &socket_files[nsocket_files];
	char		path[MAXPGPATH];

	UNIXSOCK_PATH(path, current_port, directory);
	if (path[0] == '@')
		return;					/* abstract: there is no file */
	strlcpy(file->socket, path, sizeof(file->socket));
	snprintf(file->lock, sizeof(file->lock), "%s.lock", path);
	nsocket_files++;
}

/*
 * Say what to change, once until it changes.
 */
static void
report_trouble(void)
{
	if (trouble_reported)
		return;
	trouble_reported = true;
	if (nsockets == 0)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the connection pool could not listen on port %d", current_port),
				 errdetail("The messages before this one tell why.  The server itself is not affected."),
				 errhint("Set \"pool_worker.port\" to a free port, or correct \"pool_worker.listen_addresses\" and \"pool_worker.unix_socket_directories\", and reload the configuration.")));
	else
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the connection pool could not listen on all addresses of port %d", current_port),
				 errhint("Correct \"pool_worker.listen_addresses\" or \"pool_worker.unix_socket_directories\", and reload the configuration.")));
}

/* Watch callback: somebody wants to connect. */
static void
accept_ready(void *arg, int ready)
{
	accept_callback(((PwWatch *) arg)->fd);
}

static void
accept_gave_up(void *arg)
{
	accept_failed();
}

/* Ours, or if there are none, the server's. */
static const char *
socket_directories(void)
{
	return pw_unix_socket_directories[0] ? pw_unix_socket_directories : Unix_socket_directories;
}

static void
publish(void)
{
	PwControl->listening_sockets = nsockets;
	PwControl->listening_port = nsockets > 0 ? current_port : 0;
}
