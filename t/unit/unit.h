/*-------------------------------------------------------------------------
 *
 * unit.h
 *	  What the unit tests share.
 *
 * Runs in: test programs without a server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_UNIT_H
#define PW_UNIT_H

/* Free everything that was allocated with palloc() since the last call. */
extern void unit_reset_memory(void);

/*
 * The entry point of libFuzzer: do to "data" all that pool_worker would, and
 * abort if a promise is broken.  Always returns 0.
 */
extern int	LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

/*
 * What the first byte of the fuzzer's input says about the rest.
 */
typedef enum PwUnitInput
{
	UNIT_STREAM,				/* startup packets as from a socket, then
								 * messages */
	UNIT_PACKET,				/* one startup packet without length word */
	UNIT_MESSAGES,				/* messages as from a socket */
	UNIT_OPTIONS,				/* the value of "options" */
} PwUnitInput;

#define UNIT_NINPUTS (UNIT_OPTIONS + 1)

#endif							/* PW_UNIT_H */
