# pool_worker/Makefile
#
# "make help" lists the goals.

MODULE_big = pool_worker
OBJS = \
	pool_worker.o \
	src/attachment.o \
	src/auth.o \
	src/catalog.o \
	src/changes.o \
	src/client.o \
	src/command_clock.o \
	src/core_tables.o \
	src/descriptors.o \
	src/dispatch.o \
	src/doctor.o \
	src/enforce.o \
	src/enforce_direct.o \
	src/event_loop.o \
	src/fd_passing.o \
	src/greeting.o \
	src/guc_access.o \
	src/handoff.o \
	src/identity.o \
	src/inherited_memory.o \
	src/injection.o \
	src/listen.o \
	src/login_triggers.o \
	src/lost_client.o \
	src/mailbox.o \
	src/metrics.o \
	src/opaque_state.o \
	src/operations.o \
	src/operations_api.o \
	src/pin_request.o \
	src/pool.o \
	src/pool_changes.o \
	src/pool_reserve.o \
	src/pool_settings.o \
	src/pool_share.o \
	src/pool_size.o \
	src/prepared_statements.o \
	src/priority.o \
	src/protocol.o \
	src/queue.o \
	src/server_state.o \
	src/session.o \
	src/session_libraries.o \
	src/session_sequences.o \
	src/session_settings.o \
	src/session_state.o \
	src/settings.o \
	src/shared_state.o \
	src/slot.o \
	src/slot_failure.o \
	src/slot_life.o \
	src/slot_wait.o \
	src/sql_api.o \
	src/stalled_clients.o \
	src/startup_packet.o \
	src/startup_settings.o \
	src/statement_cache.o \
	src/statement_lists.o \
	src/tcp_options.o \
	src/time_limits.o \
	src/waiting_command.o \
	src/worker.o
PGFILEDESC = "pool_worker - connection pool inside the server"

EXTENSION = pool_worker
DATA = sql/pool_worker--1.0.sql

# WERROR= (empty) builds with a compiler that knows more warnings than ours.
WERROR = -Werror
PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir)
PG_CFLAGS = $(WERROR)
SHLIB_LINK = $(libpq)

# A test build: with assertions.  Objects do not know how they were built: "make
# clean" when changing it.
ifeq ($(PW_TESTING),1)
PG_CPPFLAGS += -DUSE_ASSERT_CHECKING
endif

# Bitcode lets the JIT inline functions that run once per row.  None of ours
# does, and without it each file is compiled once instead of twice.
override with_llvm = no

# Lists of tests; dev/check_lists compares them with the files.  All need a
# server with shared_preload_libraries = 'pool_worker': see CONTRIBUTING.md,
# "Running the tests".
REGRESS = install settings privileges status operations
ISOLATION = cancel_race pin_temp_table service_order
TAP_TESTS = 1
UNIT_TESTS = $(patsubst t/unit/%.c,%,$(sort $(wildcard t/unit/*_test.c)))

EXTRA_CLEAN = t/unit/build

# These goals are scripts that also work before PostgreSQL is installed.  PGXS
# is not read for them, because it brings a "check" of its own that does no
# more than say that it is not supported.  Goals beside them ("make clean
# check") are handed to a second make.
SCRIPT_GOALS = bench check check-regress help quickstart quickstart-stop soak

ifneq ($(filter $(SCRIPT_GOALS),$(MAKECMDGOALS)),)

.NOTPARALLEL:
.PHONY: $(MAKECMDGOALS)

$(filter-out $(SCRIPT_GOALS),$(MAKECMDGOALS)):
	$(MAKE) $@

bench:
	@dev/packages build bench
	@bench/run $(BENCH_OPTIONS)

check:
	@dev/check

check-regress:
	@dev/check_regress

quickstart:
	@dev/quickstart

quickstart-stop:
	@dev/quickstart-stop

# Sessions at random, and a crowd of clients, each for SOAK_SECONDS (600).
soak:
	@SOAK_SECONDS=$(or $(SOAK_SECONDS),600) CHECK_TIMEOUT=$(shell expr $(or $(SOAK_SECONDS),600) + 900) \
		ONLY=tap TESTS='t/080_*.pl t/083_*.pl' dev/check

help:
	@echo 'make quickstart       install what is missing, start a private server with the'
	@echo '                      pool in it, compare it with no pool (PGPORT=, POOL_PORT=)'
	@echo 'make quickstart-stop  stop that server and remove its folder'
	@echo 'make                  build (PG_CONFIG=path, PW_TESTING=1, COPT=flags, WERROR=)'
	@echo 'make check            build apart and run every test; also as root'
	@echo '                      (TESTS="t/020_*.pl sql/name.sql", ONLY=regress|isolation|'
	@echo '                      tap|unit|lint, KEEP=1 to keep the logs)'
	@echo 'make check-regress    run the test suites of PostgreSQL itself through the pool and'
	@echo '                      compare with direct runs (SUITES="regress isolation contrib'
	@echo '                      pipeline", MODES="pool switch", TESTS=names, KEEP=1)'
	@echo 'make soak             random sessions for a long time, compared with direct ones,'
	@echo '                      and a crowd of clients while the pool is disturbed'
	@echo '                      (SOAK_SECONDS=600, SEED=, STEPS=, CLIENTS=1000, END_WORKER=1)'
	@echo 'make install          install into the server of PG_CONFIG'
	@echo 'make installcheck     run the tests against an installed, running server'
	@echo 'make bench            compare with direct connections and PgBouncer'
	@echo '                      (BENCH_OPTIONS=--help)'
	@echo 'make clean            remove what was built'

else

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(wildcard $(PGXS)),)
$(error "$(PG_CONFIG)" does not lead to the files that build extensions.  Run dev/packages build, or set PG_CONFIG)
endif
include $(PGXS)

# PGXS does not track headers.  Ours are few, so rebuild all on any change.
$(OBJS): $(wildcard src/*.h)

# C tests of single modules, without a server
.PHONY: unit
unit:
	$(MAKE) -C t/unit unit PG_CONFIG=$(PG_CONFIG)

# for the scripts in dev/: what is in a variable
print-%:
	@echo '$($*)'

endif
