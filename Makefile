# SPDX-License-Identifier: Apache-2.0
# farpool: GNU make, one file, no recursion. `make help` lists what there is.
#
#   CC=gcc|clang           the compiler
#   SAN=address,undefined  builds into build-asan/;  SAN=thread  into build-tsan/
#   SAN=fuzzer,address     (clang) builds tests/fuzz for libFuzzer into build-fuzz/
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
licensedir ?= $(prefix)/share/doc/farpool
INSTALL ?= install

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

LIB_LIBS := -lrdmacm -libverbs -lnuma -lisal
LIBS := $(LIB_LIBS) -ljansson
# Not of the library, which has no disk.
DISK_LIBS := -luring -lxxhash
# Only programs link an allocator; sanitizers bring their own.
ifeq ($(SAN),)
MALLOC_LIBS := -Wl,--push-state,--no-as-needed -ljemalloc -Wl,--pop-state
endif

# ---- sources: every directory is discovered ---------------------------------------------------

sources = $(sort $(wildcard $(1)/*.c))
objects = $(patsubst %.c,$(B)/obj/%.o,$(1))

COMMON_SRC := $(call sources,common) $(call sources,common/net)
LIB_SRC := $(COMMON_SRC) $(call sources,compute)
DISK_SRC := $(call sources,common/disk)
DAEMON_SRC := $(call sources,common/daemon)
MEMNODE_SRC := $(filter-out memnode/main.c,$(call sources,memnode))
MEMNODE_MAIN := $(wildcard memnode/main.c)
STORAGENODE_SRC := $(filter-out storagenode/main.c,$(call sources,storagenode))
STORAGENODE_MAIN := $(wildcard storagenode/main.c)
CLI_SRC := $(call sources,compute/cli)
CLI_LIB_SRC := $(filter-out compute/cli/main.c,$(CLI_SRC))
BENCH_LIB_SRC := $(call sources,bench/lib)
BENCH_SRC := $(call sources,bench)
TEST_LIB_SRC := $(call sources,tests/lib)
SUITES := unit conformance concurrency model fuzz integration crash
# tests/rxe/*.c are no tests of their own: the scripts beside them run them in the VM.
TEST_SRC := $(foreach suite,$(SUITES) rxe,$(call sources,tests/$(suite)))
ALL_SRC := $(LIB_SRC) $(DISK_SRC) $(DAEMON_SRC) $(MEMNODE_SRC) $(MEMNODE_MAIN) $(STORAGENODE_SRC) $(STORAGENODE_MAIN) \
	$(CLI_SRC) $(BENCH_LIB_SRC) $(BENCH_SRC) $(TEST_LIB_SRC) $(TEST_SRC)
HEADERS := $(wildcard include/*.h common/*.h common/net/*.h common/disk/*.h common/daemon/*.h compute/*.h \
	compute/cli/*.h memnode/*.h storagenode/*.h bench/lib/*.h tests/lib/*.h tests/*/*.h)

INTERNAL := $(B)/libfarpool-internal.a
LIBDISK := $(B)/libdisk.a
LIBDAEMON := $(B)/libdaemon.a
LIBMEMNODE := $(B)/libmemnode.a
LIBSTORAGENODE := $(B)/libstoragenode.a
LIBCLI := $(B)/libcli.a
LIBTEST := $(B)/libtest.a
LIBBENCH := $(B)/libbench.a
STATIC := $(B)/libfarpool.a
SHARED := $(B)/libfarpool.so.$(VERSION)
MEMNODE := $(if $(MEMNODE_MAIN),$(B)/farpool-memnode)
STORAGENODE := $(if $(STORAGENODE_MAIN),$(B)/farpool-storagenode)
CLI := $(if $(CLI_SRC),$(B)/farpool)
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(TEST_SRC))
BENCHES := $(patsubst bench/%.c,$(B)/bench/%,$(BENCH_SRC))

.PHONY: all help deps deps-build demo test check sim fuzz bench bench-programs tests tests-unit install uninstall format \
	lint clean FORCE
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all

# The instrumented builds exist for the tests: programs, but nothing to install.
ifeq ($(SAN),)
all: $(SHARED) $(B)/libfarpool.so.$(SOMAJOR) $(B)/libfarpool.so $(STATIC) $(INTERNAL) $(MEMNODE) $(STORAGENODE) $(CLI)
else
all: $(INTERNAL) $(MEMNODE) $(STORAGENODE) $(CLI)
endif

help:
	@echo 'make all                builds library, nodes and CLI into $(B)/'
	@echo 'make demo               real input through memory nodes on this machine, kill -9 included; under a minute'
	@echo 'make test [T=SUITE[/NAME]]  every test, or one suite, or one test; under 20 minutes'
	@echo 'make check              the quick part of the tests; under 2 minutes'
	@echo 'make sim [SEEDS=500] [SEED=1]  whole simulated clusters that fail in every way, from seed SEED on'
	@echo 'make fuzz [T=NAME] [SECONDS=60]  each fuzzer, or one, under libFuzzer (clang)'
	@echo 'make bench              builds the benchmarks and runs each (see bench/run --help)'
	@echo 'make install uninstall  prefix=$(prefix) DESTDIR=$(DESTDIR)'
	@echo 'make format lint        rewrites the layout; checks layout, layering and likely bugs'
	@echo 'make clean              removes every build directory'
	@echo 'CC=gcc|clang SAN=address,undefined|thread change what is built'

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
$(eval $(call archive,$(LIBCLI),$(CLI_LIB_SRC)))
$(eval $(call archive,$(LIBTEST),$(TEST_LIB_SRC)))
$(eval $(call archive,$(LIBBENCH),$(BENCH_LIB_SRC)))

# ---- the library ------------------------------------------------------------------------------

$(SHARED): $(call objects,$(LIB_SRC)) scripts/farpool.map $(INTERNAL).list
	$(call Q,LINK)$(CC) -shared -Wl,-soname,libfarpool.so.$(SOMAJOR) -Wl,--version-script=scripts/farpool.map \
		-Wl,-z,defs $(ALL_LDFLAGS) -o $@ $(call objects,$(LIB_SRC)) $(LIB_LIBS)
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
	$(LINK) $(LIBS) $(MALLOC_LIBS)
$(B)/farpool-storagenode: $(call objects,$(STORAGENODE_MAIN)) $(LIBSTORAGENODE) $(LIBDISK) $(LIBDAEMON) $(INTERNAL)
	$(LINK) $(LIBS) $(DISK_LIBS) $(MALLOC_LIBS)
$(B)/farpool: $(call objects,$(CLI_SRC)) $(INTERNAL)
	$(LINK) $(LIBS) $(MALLOC_LIBS) -lm
$(B)/tests/%: $(B)/obj/tests/%.o $(LIBTEST) $(LIBCLI) $(LIBMEMNODE) $(LIBSTORAGENODE) $(LIBDISK) \
		$(LIBDAEMON) $(INTERNAL)
	$(LINK) -lcmocka $(LIBS) $(DISK_LIBS) -lm
$(B)/bench/%: $(B)/obj/bench/%.o $(LIBBENCH) $(LIBCLI) $(LIBMEMNODE) $(LIBSTORAGENODE) $(LIBDISK) \
		$(LIBDAEMON) $(INTERNAL)
	$(LINK) -llmdb $(LIBS) $(DISK_LIBS) -lm

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

install: all
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(libdir) $(DESTDIR)$(includedir) \
		$(DESTDIR)$(pkgconfigdir) $(DESTDIR)$(licensedir)
	$(INSTALL) -m 644 include/farpool.h $(DESTDIR)$(includedir)/
	$(INSTALL) -m 644 $(STATIC) $(DESTDIR)$(libdir)/
	$(INSTALL) -m 755 $(SHARED) $(DESTDIR)$(libdir)/
	ln -sf $(notdir $(SHARED)) $(DESTDIR)$(libdir)/libfarpool.so.$(SOMAJOR)
	ln -sf libfarpool.so.$(SOMAJOR) $(DESTDIR)$(libdir)/libfarpool.so
	$(INSTALL) -m 755 $(MEMNODE) $(STORAGENODE) $(CLI) $(DESTDIR)$(bindir)/
	$(INSTALL) -m 644 LICENSE $(DESTDIR)$(licensedir)/
	sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(libdir)|' -e 's|@includedir@|$(includedir)|' \
		-e 's|@version@|$(VERSION)|' -e 's|@libs@|$(LIB_LIBS) -pthread|' \
		scripts/farpool.pc.in >$(DESTDIR)$(pkgconfigdir)/farpool.pc
	chmod 644 $(DESTDIR)$(pkgconfigdir)/farpool.pc

uninstall:
	rm -f $(DESTDIR)$(includedir)/farpool.h $(DESTDIR)$(libdir)/libfarpool.a \
		$(DESTDIR)$(libdir)/libfarpool.so $(DESTDIR)$(libdir)/libfarpool.so.$(SOMAJOR) \
		$(DESTDIR)$(libdir)/libfarpool.so.$(VERSION) $(DESTDIR)$(pkgconfigdir)/farpool.pc \
		$(DESTDIR)$(bindir)/farpool-memnode $(DESTDIR)$(bindir)/farpool-storagenode $(DESTDIR)$(bindir)/farpool \
		$(DESTDIR)$(licensedir)/LICENSE
	-rmdir $(DESTDIR)$(licensedir) 2>/dev/null

format:
	clang-format -i $(ALL_SRC) $(HEADERS)

lint:
	@scripts/lint

clean:
	rm -rf build build-asan build-tsan build-clang build-fuzz $(filter-out . / ..,$(B))

# `make print-ALL_SRC` tells the scripts what make knows.
print-%:
	@echo $($*)

-include $(patsubst %.o,%.d,$(call objects,$(ALL_SRC)))
