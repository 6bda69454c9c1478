/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  Who is asking: what the backend shows as its client.
 *
 * Runs in: slots.
 *
 * While a client is attached, the slot is that client for everything that
 * looks at MyProcPort (log_line_prefix, inet_client_addr()) or at the entry in
 * pg_stat_activity.  No pooler outside of the server can do this.
 * application_name follows from the settings, but for a slot that sleeps without
 * a client: that shows its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "utils/backend_status.h"
#include "utils/guc.h"

#include "identity.h"

/* what MyProcPort said when the slot was opened */
static SockAddr own_raddr;
static SockAddr own_laddr;
static char *own_remote_host;
static char *own_remote_port;

static bool nobody_is_shown = false;

static void show_address(const SockAddr *raddr);

void
pw_identity_init(void)
{
	own_raddr = MyProcPort->raddr;
	own_laddr = MyProcPort->laddr;
	own_remote_host = MyProcPort->remote_host;
	own_remote_port = MyProcPort->remote_port;
}

void
pw_identity_assume(PwShmClient *client)
{
	MyProcPort->raddr = client->raddr;
	MyProcPort->laddr = client->laddr;
	MyProcPort->remote_host = client->remote_host;
	MyProcPort->remote_port = client->remote_port;
	show_address(&client->raddr);
	if (nobody_is_shown)
		pgstat_report_appname(application_name);
	nobody_is_shown = false;
}

void
pw_identity_drop(void)
{
	MyProcPort->raddr = own_raddr;
	MyProcPort->laddr = own_laddr;
	MyProcPort->remote_host = own_remote_host;
	MyProcPort->remote_port = own_remote_port;
}

void
pw_identity_show_nobody(void)
{
	if (nobody_is_shown)
		return;
	show_address(&own_raddr);
	pgstat_report_appname(PW_SLOT_APPLICATION_NAME);
	nobody_is_shown = true;
}

/*
 * Change the address in our entry of pg_stat_activity, inside its change-count
 * protocol: see PGSTAT_BEGIN_WRITE_ACTIVITY in backend_status.h.
 */
static void
show_address(const SockAddr *raddr)
{
	volatile PgBackendStatus *entry = MyBEEntry;

	if (entry == NULL)
		return;
	PGSTAT_BEGIN_WRITE_ACTIVITY(entry);
	memcpy(unvolatize(SockAddr *, &entry->st_clientaddr), raddr, sizeof(SockAddr));
	PGSTAT_END_WRITE_ACTIVITY(entry);
}
