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
 * application_name needs nothing here: it is a setting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "utils/backend_status.h"

#include "identity.h"

/* what MyProcPort said when the slot was opened */
static SockAddr own_raddr;
static SockAddr own_laddr;
static char *own_remote_host;
static char *own_remote_port;

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
}

void
pw_identity_reset(void)
{
	MyProcPort->raddr = own_raddr;
	MyProcPort->laddr = own_laddr;
	MyProcPort->remote_host = own_remote_host;
	MyProcPort->remote_port = own_remote_port;
	show_address(&own_raddr);
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
