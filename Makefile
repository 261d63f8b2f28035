# Sendense: one non-recursive Makefile.
#
#   make            build everything into build/
#   make demo       run the product's main job on this machine and prove it with qemu-img; DB=mariadb
#   make test       unit, property and end-to-end tests
#   make bench      quick benchmark against the peers        make bench-full   the long one
#   make soak       good and bad clients on a server for MINUTES (default 2)
#   make fuzz       build the fuzz targets (clang) and run each for FUZZ_SECONDS
#   make coverage   line coverage per file; of what was tested (see ONLY)
#   make install    PREFIX=/usr/local DESTDIR=
#
# Variables: SAN=address,undefined or SAN=thread (own build directory), WERROR=1, V=1, CC;
#            ONLY="qcow2 crash": run the tests with one of these words in their name.

CC      ?= gcc
PREFIX  ?= /usr/local
OPT     ?= -O2 -g
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 \
           -Wundef -Wpointer-arith -Wno-missing-field-initializers
WERROR  ?=
SAN     ?=
COV     ?=
V       ?=

comma   := ,
O       := build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))$(if $(COV),/cov)
VERSION := $(shell cat VERSION)

CPPFLAGS += -I. -isystem /usr/include/mariadb -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DSENDENSE_VERSION='"$(VERSION)"'
CFLAGS   += -std=gnu17 $(OPT) $(WARN) -fno-strict-aliasing -fno-omit-frame-pointer -pthread
CFLAGS   += $(if $(WERROR),-Werror) $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=undefined)
CFLAGS   += $(if $(COV),--coverage -O0 -fprofile-update=atomic)
LDFLAGS  += -pthread $(if $(SAN),-fsanitize=$(SAN)) $(if $(COV),--coverage)

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-6s %s\n' '$(1)' '$(2)')

# --- what is built -------------------------------------------------------------------------------
# A folder is a static library; a later folder may use an earlier one, never the other way round.
FOLDERS := base qcow2 files nbd catalog hub api
srcs     = $(wildcard $(1)/*.c $(1)/*/*.c)
LIB     := $(foreach f,$(FOLDERS),$(O)/lib/$(f).a)
# Static archives are searched in order: the users first, what they use behind them.
LIB_DOWN := $(O)/lib/api.a $(O)/lib/hub.a $(O)/lib/nbd.a $(O)/lib/files.a $(O)/lib/qcow2.a $(O)/lib/catalog.a $(O)/lib/base.a

LIBS_SYS   := -luring -lxxhash -lzstd -lz -lm
LIBS_NBD   := -lssl -lcrypto
LIBS_HUB   := -lmicrohttpd -lcurl -ljansson -lsqlite3 -lmariadb -lglib-2.0 -larchive
LIBS_CTL   := -lcurl -ljansson -lfuse3
# The sandboxed reader alone is linked with what parses guests' file systems.
LIBS_FILES := -ltsk -lext2fs -lcom_err -lseccomp -lz
LIBS_AGENT := -lnbd -lmicrohttpd -lcurl -ljansson -lxxhash

PROGRAMS := sendense-hub sendense-ctl sendense-agent sendense-nbd sendense-files
BIN      := $(PROGRAMS:%=$(O)/bin/%)

TEST_SRC  := $(wildcard tests/base/test_*.c tests/qcow2/test_*.c tests/nbd/test_*.c tests/nbd/spec/test_*.c \
               tests/files/test_*.c \
               tests/catalog/test_*.c tests/hub/test_*.c tests/api/test_*.c tests/crash/test_*.c tests/tools/test_*.c \
               tests/soak/test_*.c)
TEST_BIN  := $(TEST_SRC:tests/%.c=$(O)/tests/%)
SUPPORT   := $(wildcard tests/support/*.c)
FUZZ_SRC  := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN  := $(FUZZ_SRC:tests/fuzz/%.c=$(O)/tests/fuzz/%)
# All that targets share; libFuzzer brings a main() of its own.
FUZZ_KIT  := $(filter-out $(FUZZ_SRC) $(if $(findstring fuzzer,$(SAN)),%/main.c),$(wildcard tests/fuzz/*.c))
BENCH_SRC := $(wildcard bench/*.c)
BENCH_BIN := $(BENCH_SRC:bench/%.c=$(O)/bench/%)

obj = $(patsubst %.c,$(O)/obj/%.o,$(1))

.DEFAULT_GOAL := all
.PHONY: all programs tests setup demo test bench bench-full soak fuzz fuzz-targets coverage install clean format check-format
.SECONDARY:
.DELETE_ON_ERROR:

all: programs
programs: setup $(BIN)
tests: setup $(TEST_BIN) $(FUZZ_BIN) $(BENCH_BIN)

# --- rules ---------------------------------------------------------------------------------------
$(O)/obj/%.o: %.c VERSION | setup
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# When it is compiled, setup has seen to pkg-config.
$(O)/obj/hub/zone.o: CPPFLAGS += $(shell pkg-config --cflags glib-2.0)
$(O)/obj/tools/ctl_mount.o: CPPFLAGS += $(shell pkg-config --cflags fuse3)

# Migrations are text files; the catalog carries them inside the program.
$(O)/obj/catalog/migrate.o: $(wildcard catalog/schema/*.sql)

$(O)/obj/api/h_docs.o: api/docs.html

define folder_rule
$(O)/lib/$(1).a: $(call obj,$(call srcs,$(1)))
	$$(call say,AR,$$@)
	$$(Q)mkdir -p $$(@D)
	$$(Q)rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach f,$(FOLDERS),$(eval $(call folder_rule,$(f))))

define link
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(1)
endef

$(O)/bin/sendense-hub: $(call obj,$(wildcard tools/hub*.c)) $(LIB_DOWN)
	$(call link,$(LIBS_HUB) $(LIBS_NBD) $(LIBS_SYS))
$(O)/bin/sendense-ctl: $(call obj,$(wildcard tools/ctl*.c)) $(O)/lib/files.a $(O)/lib/qcow2.a $(O)/lib/base.a
	$(call link,$(LIBS_CTL) $(LIBS_SYS))
$(O)/bin/sendense-agent: $(call obj,$(wildcard tools/agent*.c)) $(O)/lib/base.a
	$(call link,$(LIBS_AGENT) $(LIBS_SYS))
$(O)/bin/sendense-nbd: $(call obj,$(wildcard tools/nbd*.c)) $(O)/lib/nbd.a $(O)/lib/qcow2.a $(O)/lib/base.a
	$(call link,$(LIBS_NBD) $(LIBS_SYS))
$(O)/bin/sendense-files: $(call obj,$(wildcard tools/files*.c)) $(O)/lib/files.a $(O)/lib/base.a
	$(call link,-Wl$(comma)-z$(comma)relro$(comma)-z$(comma)now $(LIBS_FILES))

# A test program is one file plus tests/support; tests of a program link that program's own modules.
# Static where a wider pattern would do as well: make prefers the one whose objects exist already.
$(FUZZ_BIN): $(O)/tests/fuzz/%: $(O)/obj/tests/fuzz/%.o $(call obj,$(FUZZ_KIT)) $(LIB_DOWN)
	$(call link,$(LIBS_HUB) $(LIBS_NBD) $(LIBS_SYS))
$(filter $(O)/tests/tools/%,$(TEST_BIN)): $(O)/tests/tools/%: $(O)/obj/tests/tools/%.o $(call obj,$(SUPPORT)) \
		$(call obj,$(filter-out tools/agent.c,$(wildcard tools/agent_*.c))) \
		$(call obj,$(filter-out tools/ctl.c,$(wildcard tools/ctl_*.c))) $(LIB_DOWN)
	$(call link,-lcmocka -lnbd -lfuse3 $(LIBS_HUB) $(LIBS_NBD) $(LIBS_SYS))
$(filter $(O)/tests/files/%,$(TEST_BIN)): $(O)/tests/files/%: $(O)/obj/tests/files/%.o $(call obj,$(SUPPORT)) \
		$(call obj,$(filter-out $(wildcard tests/files/test_*.c),$(wildcard tests/files/*.c))) $(LIB_DOWN) $(O)/bin/sendense-files
	$(call link,-lcmocka $(LIBS_HUB) $(LIBS_NBD) $(LIBS_FILES) $(LIBS_SYS))
$(O)/tests/soak/test_soak: $(call obj,$(wildcard tests/soak/*.c) tests/support/nbdpeer.c) $(LIB_DOWN)
	$(call link,-lcmocka -lnbd $(LIBS_NBD) $(LIBS_SYS))
$(O)/tests/%: $(O)/obj/tests/%.o $(call obj,$(SUPPORT)) $(LIB_DOWN)
	$(call link,-lcmocka $(LIBS_HUB) $(LIBS_NBD) $(LIBS_SYS))
$(O)/bench/%: $(O)/obj/bench/%.o $(LIB_DOWN)
	$(call link,$(LIBS_HUB) $(LIBS_NBD) $(LIBS_SYS))

-include $(shell find $(O)/obj -name '*.d' 2>/dev/null)

# --- jobs ----------------------------------------------------------------------------------------
setup:
	$(Q)./packaging/setup.sh

demo: programs
	$(Q)DB=$(DB) BIN=$(abspath $(O)/bin) ./tools/demo.sh $(DEMO_ARGS)

# Each test program and each tests/e2e/*.sh is one entry; they run in parallel and clean up.
ONLY  ?=
names  = $(strip $(foreach o,$(ONLY),$(findstring $(o),$(1))))
TESTS := $(TEST_BIN) $(FUZZ_BIN) $(wildcard tests/e2e/test_*.sh)
test: programs tests
	$(Q)BUILD=$(abspath $(O)) ./tests/run.sh \
		$(if $(ONLY),$(foreach t,$(TESTS),$(if $(call names,$(t:$(O)/%=%)),$(t))),$(TESTS))

MINUTES ?= 2
soak: setup $(O)/tests/soak/test_soak
	$(Q)$(O)/tests/soak/test_soak $$(($(MINUTES) * 60)) $(SEED)

# FAMILIES="ingest chain": some parts only. SIZE=, ROUNDS=, BENCH_DIR= go to bench/run.sh.
FAMILIES ?=
bench bench-full: programs tests
	$(Q)./packaging/setup.sh gnuplot-nox nbd-server wrk
	$(Q)BUILD=$(abspath $(O)) ./bench/run.sh $(if $(filter bench,$@),quick,full) $(FAMILIES)

# ONLY picks among the targets too.
FUZZ_SECONDS ?= 30
FUZZ_SAN     := fuzzer,address,undefined
fuzz-targets: $(FUZZ_BIN)
fuzz:
	$(Q)./packaging/setup.sh clang libclang-rt-14-dev
	$(Q)$(MAKE) CC=clang SAN=$(FUZZ_SAN) OPT='-O1 -g' fuzz-targets
	$(Q)FUZZ_SECONDS=$(FUZZ_SECONDS) ./tests/fuzz/run.sh \
		$(foreach t,$(FUZZ_SRC:tests/%.c=build/san-$(subst $(comma),-,$(FUZZ_SAN))/tests/%),$(if $(or $(if $(ONLY),,all),$(call names,$(t))),$(t)))

coverage: COV_BUILD := build/cov
coverage:
	$(Q)./packaging/setup.sh gcovr
	$(Q)mkdir -p $(COV_BUILD) && find $(COV_BUILD) -name '*.gcda' -delete
	$(Q)$(MAKE) COV=1 TEST_TIMEOUT=900 ONLY='$(ONLY)' test
	$(Q)gcovr -r . $(foreach f,$(FOLDERS),-f '$(f)/') $(COV_BUILD)

install: programs
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local/bin|$(PREFIX)/bin|' packaging/systemd/sendense-hub.service \
		> $(DESTDIR)$(PREFIX)/lib/systemd/system/sendense-hub.service

format:
	clang-format -i $$(git ls-files '*.c' '*.h')
check-format:
	clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h')

clean:
	rm -rf build
