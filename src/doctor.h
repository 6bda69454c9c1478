/*-------------------------------------------------------------------------
 *
 * doctor.h
 *	  What stands in the way of the pool, and what to do about it.
 *
 * Runs in: any backend that calls pool_check().
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_DOCTOR_H
#define PW_DOCTOR_H

#include "nodes/execnodes.h"

/*
 * Make all checks, and add a row for each finding to "rsinfo", which has been
 * set up by InitMaterializedSRF() for the columns of pool_check().  Shared
 * memory must exist.
 */
extern void pw_doctor_run(ReturnSetInfo *rsinfo);

#endif							/* PW_DOCTOR_H */
