/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The life of the background worker: start, reload, shutdown.
 *
 * Runs in: pool worker (and the postmaster, for the registration).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "auth.h"
#include "client.h"
#include "compat.h"
#include "event_loop.h"
#include "listen.h"
#include "pool.h"
#include "pool_settings.h"
#include "settings.h"
#include "shared_state.h"
#include "worker.h"

/* How long the worker waits for clients that are on the way to a slot, ms. */
#define LEAVE_MS 1000
#define LEAVE_STEP_MS 5

static void worker_quit(SIGNAL_ARGS);
static void worker_connect(void);
static void worker_startup(void);
static void worker_announce(void);
static void worker_cleanup(int code, Datum arg);
static void worker_retract(void);
static void worker_on_latch(void);
static void worker_take_leave(void);
static void leave_again(void *arg);
static void wake_all_slots(void);

void
pw_worker_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	strlcpy(worker.bgw_name, "pool worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pool worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "pool_worker", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "pool_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;	/* seconds; 0 would spin if it cannot
									 * start */
	RegisterBackgroundWorker(&worker);
}

/*
 * Main entry point of the pool worker.
 */
void
pool_worker_main(Datum main_arg)
{
	/*
	 * Handlers first, then unblock.  The default SIGTERM handler of a
	 * background worker exits right where the signal lands, which may be
	 * inside a spinlock.  Ours only set a flag and the latch.
	 */
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGQUIT, worker_quit);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	pqsignal(SIGPIPE, SIG_IGN);
	BackgroundWorkerUnblockSignals();

	worker_connect();
	worker_startup();
	pw_loop_run();

	/* code 1 asks for a restart, which a stopping postmaster will not grant */
	proc_exit(1);
}

/*
 * Handler of SIGQUIT: an immediate shutdown, or some process has crashed and
 * shared memory cannot be trusted.  As quickdie() does in a backend, tell the
 * clients and exit, with nothing that could block or fail.
 */
static void
worker_quit(SIGNAL_ARGS)
{
	pw_client_quit();
	pw_listen_quit();
	_exit(2);
}

/*
 * Connect to a database, for the catalogs of roles and databases.
 *
 * Any would do, and the shared catalogs alone nearly so: but without a database
 * an out-of-line value cannot be read, and who finds one, as in the row of a
 * role with an enormous password verifier, ends with a FATAL.  If the database
 * does not exist we end as well, and the next worker does without.
 */
static void
worker_connect(void)
{
	bool		failed_before = PwControl->worker_connecting;

	if (failed_before)
		ereport(LOG,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("the connection pool could not connect to database \"%s\", and goes on without",
						pw_database),
				 errhint("Set \"pool_worker.database\" to a database that exists, and restart the server.")));
	PwControl->worker_connecting = true;
	pw_without_transaction_timeout();
	pw_pool_settings_shield(true);
	BackgroundWorkerInitializeConnection(pw_database[0] && !failed_before ? pw_database : NULL,
										 NULL, BGWORKER_BYPASS_ALLOWCONN);
	pw_pool_settings_shield(false);
	PwControl->worker_connecting = false;
}

/*
 * Clean-up is registered before there is anything to clean up, and we announce
 * ourselves before anybody can answer.
 */
static void
worker_startup(void)
{
	pw_auth_load_rules();
	pw_loop_init(worker_on_latch);
	before_shmem_exit(worker_cleanup, (Datum) 0);
	worker_announce();
	pw_listen_init(pw_client_accept, pw_client_accept_failed);
	pw_pool_init();
	pw_listen_update();
	pgstat_report_activity(STATE_IDLE, NULL);
	ereport(LOG, (errmsg("connection pool started")));
}

/*
 * From here on, slots of an earlier worker know that they are orphans.
 */
static void
worker_announce(void)
{
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	PwControl->worker_pid = MyProcPid;
	PwControl->worker_pgprocno = MyProcNumber;
	PwControl->worker_generation++;
	PwControl->worker_started_at = GetCurrentTimestamp();
	PwControl->worker_dboid = MyDatabaseId;
	LWLockRelease(&PwControl->lock);
}

/*
 * Exit callback: nobody must wait for a worker that is gone.
 *
 * Slots hold descriptors of parked clients too, so these clients would not
 * notice our end by themselves: tell them.
 */
static void
worker_cleanup(int code, Datum arg)
{
	LWLockReleaseAll();
	worker_retract();
	pw_client_close_all();
	wake_all_slots();
}

/*
 * Say that we go, before we close anybody: see tell_orphan() in attachment.c.
 * From here on nobody gets in, and no slot is opened.
 */
static void
worker_retract(void)
{
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	PwControl->worker_pid = 0;
	LWLockRelease(&PwControl->lock);
	pw_listen_close();
}

static void
wake_all_slots(void)
{
	for (int i = 0; i < PwControl->max_slots; i++)
		pw_wake_slot(i);
}

/*
 * Called by the loop once per turn, before any callback: look at everything
 * that a signal handler or a slot may have left for us.
 */
static void
worker_on_latch(void)
{
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();

	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		pw_auth_load_rules();
		pw_listen_update();
		pw_pool_reload();
	}
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (ShutdownRequestPending)
		worker_take_leave();

	pw_pool_work();
}

/*
 * We are to end, and tell all clients that are ours.  Who is with a slot hears
 * it from there; who is on the way to a slot that cannot take him any more
 * comes back to us.  So we wait for those, but not for long.
 */
static void
worker_take_leave(void)
{
	static PwTimer timer;
	static TimestampTz leave_by = 0;

	if (leave_by == 0)
	{
		ereport(LOG,
				(errmsg("connection pool stops"),
				 errdetail("Clients connected: %d.", PwControl->clients)));
		leave_by = TimestampTzPlusMilliseconds(pw_loop_now(), LEAVE_MS);
		worker_retract();
		wake_all_slots();
	}
	pw_client_close_all();
	if (pw_client_is_on_the_way() && pw_loop_now() < leave_by)
		pw_timer_arm(&timer, TimestampTzPlusMilliseconds(pw_loop_now(), LEAVE_STEP_MS),
					 leave_again, leave_again, NULL);
	else
		pw_loop_stop();
}

/* Timer callback: another turn begins with worker_on_latch(). */
static void
leave_again(void *arg)
{
}
