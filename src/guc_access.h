/*-------------------------------------------------------------------------
 *
 * guc_access.h
 *	  PostgreSQL's settings, as the variables that they are.
 *
 * Runs in: slots; the lookups in every process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_GUC_ACCESS_H
#define PW_GUC_ACCESS_H

#include "lib/stringinfo.h"
#include "utils/guc_tables.h"

/* The order of names: as in guc.c, where only ASCII letters have a case. */
extern int	pw_guc_compare_names(const char *a, const char *b);

/* A setting by its name, or NULL.  Does not find what is hidden. */
extern struct config_generic *pw_guc_find(const char *name);

/*
 * Append the value of a setting so that setting it to this again changes
 * nothing, not even a digit.  False if it is a string without a value; then
 * nothing is appended.
 */
extern bool pw_guc_append_value(StringInfo out, struct config_generic *setting);

/*
 * Settings that no module has defined (placeholders) come into being when
 * somebody sets them, and PostgreSQL never removes them.  So we hide those of
 * other clients.  Only one that is no longer set may be hidden.
 *
 * "is_own" tells those that are somebody's in this session from those that are
 * in configuration files or ALTER ROLE; hidden ones are nobody's.
 */
extern bool pw_placeholder_is_own(const struct config_generic *setting);
extern void pw_placeholder_hide(struct config_generic *setting);

/* Make a placeholder visible if there is a hidden one of this name. */
extern void pw_placeholder_show(const char *name);

/*
 * Hidden ones pile up when clients create the same again by themselves.  True
 * if this backend has collected so many that it should end.
 */
extern bool pw_placeholders_are_many(void);

#endif							/* PW_GUC_ACCESS_H */
