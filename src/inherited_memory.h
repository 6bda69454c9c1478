/*-------------------------------------------------------------------------
 *
 * inherited_memory.h
 *	  Keep what the postmaster has parsed alive in the worker.
 *
 * Runs in: postmaster; the fork handler in each of its children.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_INHERITED_MEMORY_H
#define PW_INHERITED_MEMORY_H

/* Called once in the postmaster, from _PG_init(); see inherited_memory.c. */
extern void pw_inherited_memory_keep(void);

#endif							/* PW_INHERITED_MEMORY_H */
