# SPDX-License-Identifier: Apache-2.0
# farpool: GNU make, one file, no recursion. `make help` lists what there is.
#
#   CC=gcc|clang           the compiler
#   SAN=address,undefined  builds into build-asan/;  SAN=thread  into build-tsan/
#   SAN=fuzzer,address     (clang) builds tests/fuzz for libFuzzer into build-fuzz/
#   FAULTS=1               with fault points (common/faultpoint.h), into build-faults/
#   BUILD=DIR              builds somewhere else;  V=1 shows whole commands
#   prefix, libdir, DESTDIR  as usual for install
ifeq ($(origin CC),default)
CC := gcc
endif
VERSION := 0.1.0
SOMAJOR := 0

prefix ?= /usr/local
bindir ?= $(prefix)/bin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
pkgconfigdir ?= $(libdir)/pkgconfig
mandir ?= $(prefix)/share/man
completiondir ?= $(prefix)/share/bash-completion/completions
licensedir ?= $(prefix)/share/doc/farpool
unitdir ?= $(prefix)/lib/systemd/system
sysusersdir ?= $(prefix)/lib/sysusers.d
INSTALL ?= install

ifneq ($(FAULTS),)
BUILD ?= build-faults
CPPFLAGS += -DFARPOOL_FAULTS
endif
ifeq ($(findstring thread,$(SAN)),thread)
BUILD ?= build-tsan
else ifneq ($(findstring fuzzer,$(SAN)),)
BUILD ?= build-fuzz
CPPFLAGS += -DFARPOOL_LIBFUZZER
else ifneq ($(SAN),)
BUILD ?= build-asan
else
BUILD ?= build
endif
B := $(BUILD)

# ---- flags -----------------------------------------------------------------------------------

CPPFLAGS += -D_GNU_SOURCE -I. -Iinclude
CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith
# CRC32C needs SSE4.2, which every x86-64 machine with an RDMA NIC has.
ifeq ($(shell uname -m),x86_64)
MARCH := -march=x86-64-v2
endif
ifneq ($(SAN),)
SANFLAGS := -fsanitize=$(SAN) -fno-omit-frame-pointer
ifeq ($(findstring undefined,$(SAN)),undefined)
SANFLAGS += -fno-sanitize-recover=undefined
endif
endif
ALL_CFLAGS := -std=gnu17 $(CFLAGS) $(MARCH) $(WARNINGS) $(SANFLAGS) -fPIC -fvisibility=hidden -pthread
ALL_LDFLAGS := $(SANFLAGS) -pthread -Wl,--as-needed $(LDFLAGS)

LIBS := -lrdmacm -libverbs -lnuma -lisal -ljansson -lssl -lcrypto
# Not of the library, which has no disk.
DISK_LIBS := -luring -lxxhash
# Of what stands on common/daemon.
DAEMON_LIBS := -lmicrohttpd
COORDINATOR_LIBS := -lcurl -lsqlite3
# Only programs link an allocator; sanitizers bring their own.
ifeq ($(SAN),)
MALLOC_LIBS := -Wl,--push-state,--no-as-needed -ljemalloc -Wl,--pop-state
endif

# ---- sources: every directory is discovered ---------------------------------------------------

sources = $(sort $(wildcard $(1)/*.c))
objects = $(patsubst %.c,$(B)/obj/%.o,$(1))

COMMON_SRC := $(call sources,common) $(call sources,common/net) $(call sources,common/cluster)
LIB_SRC := $(COMMON_SRC) $(call sources,compute)
DISK_SRC := $(call sources,common/disk)
DAEMON_SRC := $(call sources,common/daemon)
MEMNODE_SRC := $(filter-out memnode/main.c,$(call sources,memnode))
MEMNODE_MAIN := $(wildcard memnode/main.c)
STORAGENODE_SRC := $(filter-out storagenode/main.c,$(call sources,storagenode))
STORAGENODE_MAIN := $(wildcard storagenode/main.c)
COORDINATOR_SRC := $(filter-out coordinator/main.c,$(call sources,coordinator))
COORDINATOR_MAIN := $(wildcard coordinator/main.c)
CTL_MAIN := $(wildcard coordinator/ctl/main.c)
CTL_SRC := $(filter-out coordinator/ctl/main.c,$(call sources,coordinator/ctl))
CLI_SRC := $(call sources,compute/cli)
CLI_LIB_SRC := $(filter-out compute/cli/main.c,$(CLI_SRC))
BENCH_LIB_SRC := $(call sources,bench/lib)
BENCH_SRC := $(call sources,bench)
TEST_LIB_SRC := $(call sources,tests/lib)
SUITES := unit conformance concurrency model fuzz integration crash failover
# tests/rxe/*.c are no tests of their own: the scripts beside them run them in the VM.
TEST_SRC := $(foreach suite,$(SUITES) rxe,$(call sources,tests/$(suite)))
ALL_SRC := $(LIB_SRC) $(DISK_SRC) $(DAEMON_SRC) $(MEMNODE_SRC) $(MEMNODE_MAIN) $(STORAGENODE_SRC) $(STORAGENODE_MAIN) \
	$(COORDINATOR_SRC) $(COORDINATOR_MAIN) $(CTL_SRC) $(CTL_MAIN) $(CLI_SRC) $(BENCH_LIB_SRC) $(BENCH_SRC) $(TEST_LIB_SRC) $(TEST_SRC)
HEADERS := $(wildcard include/*.h common/*.h common/net/*.h common/disk/*.h common/daemon/*.h common/cluster/*.h compute/*.h \
	compute/cli/*.h memnode/*.h storagenode/*.h coordinator/*.h coordinator/ctl/*.h bench/lib/*.h tests/lib/*.h tests/*/*.h)

INTERNAL := $(B)/libfarpool-internal.a
LIBDISK := $(B)/libdisk.a
LIBDAEMON := $(B)/libdaemon.a
LIBMEMNODE := $(B)/libmemnode.a
LIBSTORAGENODE := $(B)/libstoragenode.a
LIBCOORDINATOR := $(B)/libcoordinator.a
LIBCTL := $(B)/libctl.a
LIBCLI := $(B)/libcli.a
LIBTEST := $(B)/libtest.a
LIBBENCH := $(B)/libbench.a
STATIC := $(B)/libfarpool.a
SHARED := $(B)/libfarpool.so.$(VERSION)
UNITS := $(notdir $(sort $(wildcard scripts/systemd/*.service)))
MEMNODE := $(if $(MEMNODE_MAIN),$(B)/farpool-memnode)
COORDINATOR := $(if $(COORDINATOR_MAIN),$(B)/farpool-coordinator)
CTL := $(if $(CTL_MAIN),$(B)/farpoolctl)
STORAGENODE := $(if $(STORAGENODE_MAIN),$(B)/farpool-storagenode)
CLI := $(if $(CLI_SRC),$(B)/farpool)
MAN := $(foreach program,$(notdir $(MEMNODE) $(STORAGENODE) $(COORDINATOR) $(CTL) $(CLI)),$(patsubst \
	docs/man/%.in,$(B)/man/%,$(wildcard docs/man/$(program).[18].in)))
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(TEST_SRC))
BENCHES := $(patsubst bench/%.c,$(B)/bench/%,$(BENCH_SRC))

.PHONY: all help deps deps-build man demo test check sim fuzz bench bench-programs tests tests-unit install uninstall format \
	lint clean FORCE
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all

# The instrumented builds exist for the tests: programs, but nothing to install.
ifeq ($(SAN)$(FAULTS),)
all: $(SHARED) $(B)/libfarpool.so.$(SOMAJOR) $(B)/libfarpool.so $(STATIC) $(INTERNAL) $(MEMNODE) $(STORAGENODE) $(COORDINATOR) $(CTL) $(CLI) \
	$(LIBCOORDINATOR)
else
all: $(INTERNAL) $(MEMNODE) $(STORAGENODE) $(COORDINATOR) $(CTL) $(CLI) $(LIBCOORDINATOR) $(LIBCTL)
endif

help:
	@echo 'make all                builds library, nodes and CLI into $(B)/'
	@echo 'make demo               a whole cluster on this machine, and what becomes of it when nodes are killed; a minute'
	@echo 'make test [T=SUITE[/NAME]]  every test, or one suite, or one test; under 20 minutes'
	@echo 'make check              the quick part of the tests; under 2 minutes'
	@echo 'make sim [SEEDS=500] [SEED=1]  whole simulated clusters that fail in every way, from seed SEED on'
	@echo 'make fuzz [T=NAME] [SECONDS=60]  each fuzzer, or one, under libFuzzer (clang)'
	@echo 'make bench              builds the benchmarks and runs each (see bench/run --help)'
	@echo 'make man                manual pages, into $(B)/man/'
	@echo 'make install uninstall  prefix=$(prefix) DESTDIR=$(DESTDIR)'
	@echo 'make format lint        rewrites the layout; checks layout, layering and likely bugs'
	@echo 'make clean              removes every build directory'
	@echo 'CC=gcc|clang SAN=address,undefined|thread FAULTS=1 change what is built'

# Short lines by default, whole commands with V=1.
ifeq ($(V),)
Q = @echo '$(1)  $@';
else
Q =
endif

# ---- objects and archives ---------------------------------------------------------------------

# Objects depend on the command line that makes them, so that changing CC or CFLAGS rebuilds.
COMMAND := $(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS)
$(B)/command: FORCE
	@mkdir -p $(@D)
	@[ "$$(cat $@ 2>/dev/null)" = '$(COMMAND)' ] || echo '$(COMMAND)' >$@

$(B)/obj/%.o: %.c $(B)/command
	@mkdir -p $(@D)
	$(call Q,CC  )$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# An archive also depends on the list of its members, so that a source that went away leaves it.
define archive
$(1).list: FORCE
	@mkdir -p $$(@D)
	@[ "$$$$(cat $$@ 2>/dev/null)" = '$(2)' ] || echo '$(2)' >$$@
$(1): $(call objects,$(2)) $(1).list
	@rm -f $$@
	$$(call Q,AR  )$$(AR) rcs $$@ $(call objects,$(2))
endef
$(eval $(call archive,$(INTERNAL),$(LIB_SRC)))
$(eval $(call archive,$(LIBDISK),$(DISK_SRC)))
$(eval $(call archive,$(LIBDAEMON),$(DAEMON_SRC)))
$(eval $(call archive,$(LIBMEMNODE),$(MEMNODE_SRC)))
$(eval $(call archive,$(LIBSTORAGENODE),$(STORAGENODE_SRC)))
$(eval $(call archive,$(LIBCOORDINATOR),$(COORDINATOR_SRC)))
$(eval $(call archive,$(LIBCTL),$(CTL_SRC)))
$(eval $(call archive,$(LIBCLI),$(CLI_LIB_SRC)))
$(eval $(call archive,$(LIBTEST),$(TEST_LIB_SRC)))
$(eval $(call archive,$(LIBBENCH),$(BENCH_LIB_SRC)))

# ---- the library ------------------------------------------------------------------------------

$(SHARED): $(call objects,$(LIB_SRC)) scripts/farpool.map $(INTERNAL).list
	$(call Q,LINK)$(CC) -shared -Wl,-soname,libfarpool.so.$(SOMAJOR) -Wl,--version-script=scripts/farpool.map \
		-Wl,-z,defs $(ALL_LDFLAGS) -o $@ $(call objects,$(LIB_SRC)) $(LIBS)
$(B)/libfarpool.so.$(SOMAJOR): $(SHARED)
	@ln -sf $(<F) $@
$(B)/libfarpool.so: $(SHARED)
	@ln -sf libfarpool.so.$(SOMAJOR) $@

# One object whose internals are local: a host's own symbols cannot clash with ours.
$(STATIC): $(call objects,$(LIB_SRC)) $(INTERNAL).list
	$(call Q,LINK)$(LD) -r -o $(B)/farpool.o $(call objects,$(LIB_SRC))
	@objcopy --wildcard --keep-global-symbol='farpool_*' $(B)/farpool.o
	@rm -f $@
	@$(AR) rcs $@ $(B)/farpool.o

# ---- programs ---------------------------------------------------------------------------------

LINK = $(call Q,LINK)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o %.a,$^)

$(B)/farpool-memnode: $(call objects,$(MEMNODE_MAIN)) $(LIBMEMNODE) $(LIBDAEMON) $(INTERNAL)
	$(LINK) $(LIBS) $(DAEMON_LIBS) $(MALLOC_LIBS)
$(B)/farpool-storagenode: $(call objects,$(STORAGENODE_MAIN)) $(LIBSTORAGENODE) $(LIBDISK) $(LIBDAEMON) $(INTERNAL)
	$(LINK) $(LIBS) $(DISK_LIBS) $(DAEMON_LIBS) $(MALLOC_LIBS)
$(B)/farpool-coordinator: $(call objects,$(COORDINATOR_MAIN)) $(LIBCOORDINATOR) $(LIBDAEMON) $(INTERNAL)
	$(LINK) $(LIBS) $(COORDINATOR_LIBS) $(DAEMON_LIBS) $(MALLOC_LIBS)
$(B)/farpoolctl: $(call objects,$(CTL_MAIN)) $(LIBCTL) $(INTERNAL)
	$(LINK) $(LIBS) $(MALLOC_LIBS)
$(B)/farpool: $(call objects,$(CLI_SRC)) $(INTERNAL)
	$(LINK) $(LIBS) $(MALLOC_LIBS) -lm
$(B)/tests/%: $(B)/obj/tests/%.o $(LIBTEST) $(LIBCTL) $(LIBCLI) $(LIBMEMNODE) $(LIBSTORAGENODE) $(LIBCOORDINATOR) \
		$(LIBDISK) $(LIBDAEMON) $(INTERNAL)
	$(LINK) -lcmocka $(LIBS) $(DISK_LIBS) $(DAEMON_LIBS) $(COORDINATOR_LIBS) -lm
$(B)/bench/%: $(B)/obj/bench/%.o $(LIBBENCH) $(LIBCLI) $(LIBMEMNODE) $(LIBSTORAGENODE) $(LIBDISK) \
		$(LIBDAEMON) $(INTERNAL)
	$(LINK) -llmdb $(LIBS) $(DISK_LIBS) $(DAEMON_LIBS) -lm

# Manual pages name the options that the program's --help does.
$(B)/man/%.1: docs/man/%.1.in scripts/man-page $(B)/%
	@mkdir -p $(@D)
	$(call Q,MAN )scripts/man-page $(B)/$* $< $(VERSION) >$@
$(B)/man/%.8: docs/man/%.8.in scripts/man-page $(B)/%
	@mkdir -p $(@D)
	$(call Q,MAN )scripts/man-page $(B)/$* $< $(VERSION) >$@
man: $(MAN)

tests: all $(TESTS)
# One suite: make tests-unit
$(foreach suite,$(SUITES),$(eval tests-$(suite): all $(filter $(B)/tests/$(suite)/%,$(TESTS))))
bench-programs: all $(BENCHES)

# ---- what people call -------------------------------------------------------------------------

# make -j runs prerequisites side by side, so what needs the packages is made by a second make.
deps:
	@scripts/install-deps test
deps-build:
	@scripts/install-deps build

demo: deps-build
	@$(MAKE) --no-print-directory all
	@scripts/demo $(DEMO_ARGS)

test: deps
	@tests/run $(if $(T),'$(T)')

check: deps
	@tests/run --quick

sim: deps
	@$(MAKE) --no-print-directory $(B)/tests/model/cluster_sim
	@SEED='$(or $(SEED),1)' SEEDS='$(or $(SEEDS),500)' $(B)/tests/model/cluster_sim

fuzz: deps
	@scripts/fuzz $(or $(SECONDS),60) $(T)

bench: deps
	@$(MAKE) --no-print-directory bench-programs
	@for name in $(patsubst $(B)/bench/%,%,$(BENCHES)); do bench/run $$name $(BENCH_ARGS) || exit 1; done

install: all man
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(libdir) $(DESTDIR)$(includedir) \
		$(DESTDIR)$(pkgconfigdir) $(DESTDIR)$(licensedir) $(DESTDIR)$(unitdir) $(DESTDIR)$(sysusersdir) \
		$(DESTDIR)$(mandir)/man1 $(DESTDIR)$(mandir)/man8 $(DESTDIR)$(completiondir)
	$(INSTALL) -m 644 include/farpool.h $(DESTDIR)$(includedir)/
	$(INSTALL) -m 644 $(STATIC) $(DESTDIR)$(libdir)/
	$(INSTALL) -m 755 $(SHARED) $(DESTDIR)$(libdir)/
	ln -sf $(notdir $(SHARED)) $(DESTDIR)$(libdir)/libfarpool.so.$(SOMAJOR)
	ln -sf libfarpool.so.$(SOMAJOR) $(DESTDIR)$(libdir)/libfarpool.so
	$(INSTALL) -m 755 $(MEMNODE) $(STORAGENODE) $(COORDINATOR) $(CTL) $(CLI) $(DESTDIR)$(bindir)/
	$(INSTALL) -m 644 LICENSE docs/operations.md $(DESTDIR)$(licensedir)/
	$(INSTALL) -m 644 scripts/systemd/farpool.sysusers $(DESTDIR)$(sysusersdir)/farpool.conf
	for unit in $(UNITS); do \
		sed -e 's|@bindir@|$(bindir)|' -e 's|@docdir@|$(licensedir)|' scripts/systemd/$$unit \
			>$(DESTDIR)$(unitdir)/$$unit && chmod 644 $(DESTDIR)$(unitdir)/$$unit || exit 1; \
	done
	$(INSTALL) -m 644 $(filter %.1,$(MAN)) $(DESTDIR)$(mandir)/man1/
	$(INSTALL) -m 644 $(filter %.8,$(MAN)) $(DESTDIR)$(mandir)/man8/
	$(INSTALL) -m 644 scripts/completion/farpoolctl $(DESTDIR)$(completiondir)/
	sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(libdir)|' -e 's|@includedir@|$(includedir)|' \
		-e 's|@version@|$(VERSION)|' -e 's|@libs@|$(LIBS) -pthread|' \
		scripts/farpool.pc.in >$(DESTDIR)$(pkgconfigdir)/farpool.pc
	chmod 644 $(DESTDIR)$(pkgconfigdir)/farpool.pc

uninstall:
	rm -f $(DESTDIR)$(includedir)/farpool.h $(DESTDIR)$(libdir)/libfarpool.a \
		$(DESTDIR)$(libdir)/libfarpool.so $(DESTDIR)$(libdir)/libfarpool.so.$(SOMAJOR) \
		$(DESTDIR)$(libdir)/libfarpool.so.$(VERSION) $(DESTDIR)$(pkgconfigdir)/farpool.pc \
		$(DESTDIR)$(bindir)/farpool-memnode $(DESTDIR)$(bindir)/farpool-storagenode $(DESTDIR)$(bindir)/farpool \
		$(DESTDIR)$(bindir)/farpool-coordinator $(DESTDIR)$(bindir)/farpoolctl \
		$(patsubst $(B)/man/%.1,$(DESTDIR)$(mandir)/man1/%.1,$(filter %.1,$(MAN))) \
		$(patsubst $(B)/man/%.8,$(DESTDIR)$(mandir)/man8/%.8,$(filter %.8,$(MAN))) \
		$(DESTDIR)$(completiondir)/farpoolctl \
		$(DESTDIR)$(licensedir)/LICENSE $(DESTDIR)$(licensedir)/operations.md \
		$(addprefix $(DESTDIR)$(unitdir)/,$(UNITS)) $(DESTDIR)$(sysusersdir)/farpool.conf
	-rmdir $(DESTDIR)$(licensedir) 2>/dev/null

format:
	clang-format -i $(ALL_SRC) $(HEADERS)

lint:
	@scripts/lint

clean:
	rm -rf build build-asan build-tsan build-clang build-fuzz build-faults $(filter-out . / ..,$(B))

# `make print-ALL_SRC` tells the scripts what make knows.
print-%:
	@echo $($*)

-include $(patsubst %.o,%.d,$(call objects,$(ALL_SRC)))
