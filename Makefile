# mana_ai: mission runner inside PostgreSQL.
#
# As PGXS users expect:   make && sudo make install && make installcheck   (PG_CONFIG=... selects the server)
# On a fresh Debian:      make demo, make test, make bench                 (install what is missing first)
# `make help` lists everything.

EXTENSION = mana_ai
EXTVERSION = 0.2.0

# The install script is these files, in this order. A file in sql/ that is not listed fails `make test`.
SQL_TOPICS = schema.sql usage_sums.sql waking.sql lineage.sql what_if.sql money.sql research.sql tools.sql brake.sql lww.sql functions.sql status.sql stale_plans.sql inputs.sql erasure.sql metrics.sql \
	http.sql privileges.sql attach_at_create.sql

# Tests that `make installcheck` runs: test/sql/NAME.sql and test/isolation/specs/NAME.spec.
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
ISOLATION = $(sort $(patsubst test/isolation/specs/%.spec,%,$(wildcard test/isolation/specs/*.spec)))

# Only core, crypto and net build without PostgreSQL; see docs/architecture.md.
LAYERS = core crypto net pg extension

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
export PG_CONFIG

# `make WERROR=` builds with a compiler that warns about more than the tested ones.
WERROR ?= -Werror

# PostgreSQL's makefiles name the compiler that it was built with. One in the environment takes precedence.
COMPILER_OF_ENVIRONMENT := $(if $(filter environment,$(origin CXX)),$(CXX))

# Prints progress such as "[ 87/141] src/core/text/json.cpp". `make V=1` shows the commands.
QUIET = $(if $(V),,@)

# Debian has pgxs.mk in the client's package, so PGXS alone does not mean that there are headers.
POSTGRES_HEADER := $(wildcard $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)/postgres.h)

ifneq ($(and $(wildcard $(PGXS)),$(POSTGRES_HEADER)),)
# ---------------------------------------------------------------- the extension, by PGXS

MODULE_big = $(EXTENSION)
SOURCES := $(sort $(foreach layer,$(LAYERS),$(wildcard src/$(layer)/*.cpp src/$(layer)/*/*.cpp)))
# For tests only: `make FAILPOINTS=1` compiles the failpoints in (include/mana_ai/pg/failpoint.hpp), `make SANITIZE=1`
# checks addresses and undefined behaviour (test/sanitize) in the two layers that run inside PostgreSQL. All other objects
# are shared with the ordinary build.
ifneq ($(FAILPOINTS),)
VARIANT_FLAGS += -DMANA_AI_FAILPOINTS
endif
ifneq ($(SANITIZE),)
# Null pointers crash by themselves, and x86 reads from any address; looking for both doubles the time that compiling takes.
SANITIZERS = -fsanitize=address,undefined -fno-sanitize=vptr,null,object-size,alignment
VARIANT_FLAGS += $(SANITIZERS) -fno-omit-frame-pointer -O1 -g1
endif
# `make QUICK=1` compiles everything without optimization, in half the time, for a first demo.
ifneq ($(QUICK),)
PG_CXXFLAGS += -O0 -g0
endif
BASE_OBJDIR = build/pg$(MAJORVERSION)$(if $(QUICK),_quick)
# Without optimization most of the time goes into reading nlohmann_json: here it is read once, into a precompiled header.
# Only the sources that would read it get that, since it takes time as well. An ordinary build has none: compiler caches
# do not go well with it.
ifneq ($(QUICK),)
PREFIX = $(BASE_OBJDIR)/prefix.hpp
PREFIXED_SOURCES := $(if $(SOURCES),$(shell src/json_sources.sh))
endif
OBJDIR = $(BASE_OBJDIR)$(if $(FAILPOINTS),_failpoints)$(if $(SANITIZE),_sanitized)
# The HTML page is compiled in, as one string.
PAGE_SOURCE = build/page/page_html.cpp
PAGE_OBJ = $(BASE_OBJDIR)/page_html.o
INSIDE_SOURCES = $(filter src/pg/% src/extension/%,$(SOURCES))
# The sources that a variant compiles differently. Failpoints are in a few sources and in no header.
VARIANT_SOURCES := $(if $(SANITIZE),$(INSIDE_SOURCES),$(if $(FAILPOINTS),$(shell grep -l 'mana_ai/pg/failpoint.hpp' $(INSIDE_SOURCES))))
VARIANT_OBJS = $(patsubst src/%.cpp,$(OBJDIR)/%.o,$(VARIANT_SOURCES))
SHARED_OBJS = $(patsubst src/%.cpp,$(BASE_OBJDIR)/%.o,$(filter-out $(VARIANT_SOURCES),$(SOURCES)))
OBJS = $(VARIANT_OBJS) $(SHARED_OBJS) $(PAGE_OBJ)

# PGXS links with the C compiler, which does not add C++'s library.
SHLIB_LINK = $(SANITIZERS) -lmicrohttpd -lcurl -lssl -lcrypto \
	$(if $(findstring -stdlib=libc++,$(CXX) $(CXXFLAGS)),-lc++,-lstdc++)

INSTALL_SCRIPT_SQL = build/sql/$(EXTENSION)--$(EXTVERSION).sql
DATA_built = $(INSTALL_SCRIPT_SQL)
DATA = $(wildcard sql/upgrade/$(EXTENSION)--*--*.sql)

REGRESS_OPTS = --inputdir=test
ISOLATION_OPTS = --inputdir=test/isolation
# pg_regress of PostgreSQL 14 does not say where the tests are.
installcheck: export PG_ABS_SRCDIR = $(CURDIR)/test
# Where a test finds test/data/invariants.sql: isolation specs cannot include a file.
installcheck: export PGOPTIONS += -c mana_ai_test.data=$(CURDIR)/test/data

# No bitcode for just-in-time inlining: nothing here is worth inlining into a query.
override with_llvm = no

include $(PGXS)

ifneq ($(COMPILER_OF_ENVIRONMENT),)
CXX = $(COMPILER_OF_ENVIRONMENT)
endif
# PostgreSQL's warning flags are for the compiler that it was built with. clang does not know all of gcc's.
IS_CLANG := $(shell $(CXX) --version 2>/dev/null | grep -c clang)
WARNINGS = -Wall -Wextra -Wshadow=compatible-local
ifneq ($(IS_CLANG),0)
WARNINGS = -Wall -Wextra -Wno-unknown-warning-option
endif

# pg_regress finds expected output in ./expected by itself; that of the isolation tests is in a separate folder.
ifneq ($(filter-out 12 13 14 15,$(MAJORVERSION)),)
ISOLATION_OPTS += --expecteddir=test/isolation
endif

# Symbols are hidden unless PostgreSQL must find them. Before 16 PGDLLEXPORT is empty, so it is given here.
ifneq ($(filter 12 13 14 15,$(MAJORVERSION)),)
EXPORT_FLAGS = '-DPGDLLEXPORT=__attribute__((visibility("default")))'
endif

# PostgreSQL 16 and later bring -Wshadow=compatible-local themselves.
OUR_CXXFLAGS = $(filter-out -I%,$(CPPFLAGS)) $(CXXFLAGS) -std=c++20 $(WARNINGS) \
	$(WERROR) -fPIC \
	-fvisibility=hidden -DMANA_AI_VERSION='"$(EXTVERSION)"' -Iinclude
# System headers, so that our warning level does not apply to them; unknown to the layers below pg.
POSTGRES_FLAGS = $(EXPORT_FLAGS) -isystem $(includedir_server) -isystem $(includedir_internal) \
	$(patsubst -I%,-isystem %,$(filter-out -I. -I./ -I$(srcdir) -I$(includedir_server) -I$(includedir_internal),$(filter -I%,$(CPPFLAGS))))
COMPILE_OURS = $(CXX) $(OUR_CXXFLAGS) $(if $(filter $(VARIANT_SOURCES),$<),$(VARIANT_FLAGS)) \
	$(if $(filter $(INSIDE_SOURCES),$<),$(POSTGRES_FLAGS)) $(if $(filter $(PREFIXED_SOURCES),$<),-include $(PREFIX))
# The object's position among all, which shows the progress.
empty :=
PLACE = $(words $(subst |, ,$(firstword x$(subst |$@|,| ,|$(subst $(empty) $(empty),|,$(OBJS))|))))
SHOW_PROGRESS = @printf '[%3d/%d] %s\n' $(PLACE) $(words $(OBJS)) $<

$(PAGE_SOURCE): src/extension/http/page/index.html Makefile
	@mkdir -p $(@D)
	@{ printf '%s' 'namespace mana_ai { extern const char kPageHtml[]; const char kPageHtml[] = R"page('; \
	   cat $<; echo ')page"; }'; } > $@.tmp
	@mv $@.tmp $@

$(PAGE_OBJ): $(PAGE_SOURCE) $(BASE_OBJDIR)/flags
	@mkdir -p $(@D)
	$(SHOW_PROGRESS)
	$(QUIET)$(COMPILE_OURS) -c -o $@ $<

$(VARIANT_OBJS): $(OBJDIR)/%.o: src/%.cpp $(OBJDIR)/flags
	@mkdir -p $(@D)
	$(SHOW_PROGRESS)
	$(QUIET)$(COMPILE_OURS) -MMD -MP -c -o $@ $<

$(SHARED_OBJS): $(BASE_OBJDIR)/%.o: src/%.cpp $(BASE_OBJDIR)/flags
	@mkdir -p $(@D)
	$(SHOW_PROGRESS)
	$(QUIET)$(COMPILE_OURS) -MMD -MP -c -o $@ $<

ifneq ($(PREFIXED_SOURCES),)
$(PREFIX).gch: $(BASE_OBJDIR)/flags
	@mkdir -p $(@D)
	@echo '#include <nlohmann/json.hpp>' > $(PREFIX)
	$(QUIET)$(CXX) $(OUR_CXXFLAGS) -x c++-header -o $@ $(PREFIX)

$(sort $(foreach folder,$(BASE_OBJDIR) $(OBJDIR),$(PREFIXED_SOURCES:src/%.cpp=$(folder)/%.o))): $(PREFIX).gch
endif

-include $(OBJS:.o=.d)

# PGXS names all targets .SECONDARY, so make would not notice a deleted object while mana_ai.so is newer.
.PHONY: $(filter-out $(wildcard $(OBJS)),$(OBJS))

# Everything that takes time, without touching mana_ai.so.
objects: $(OBJS)
.PHONY: objects

# Changes when the compiler's command line does, and so rebuilds everything.
FLAGS_TEXT := $(subst ',,$(CXX) $(OUR_CXXFLAGS) $(POSTGRES_FLAGS))
ifneq ($(FLAGS_TEXT),$(shell cat $(BASE_OBJDIR)/flags 2>/dev/null))
.PHONY: $(BASE_OBJDIR)/flags
endif
$(BASE_OBJDIR)/flags:
	@mkdir -p $(@D)
	@printf '%s\n' '$(FLAGS_TEXT)' > $@

ifneq ($(OBJDIR),$(BASE_OBJDIR))
ifneq ($(FLAGS_TEXT) $(VARIANT_FLAGS),$(shell cat $(OBJDIR)/flags 2>/dev/null))
.PHONY: $(OBJDIR)/flags
endif
$(OBJDIR)/flags:
	@mkdir -p $(@D)
	@printf '%s\n' '$(FLAGS_TEXT) $(VARIANT_FLAGS)' > $@
endif

# mana_ai.so is in the top folder whatever server it was built for, and is linked again when the server changes.
LINKED_FOR = build/linked_for
ifneq ($(OBJDIR) $(pkglibdir),$(shell cat $(LINKED_FOR) 2>/dev/null))
.PHONY: $(LINKED_FOR)
endif
$(LINKED_FOR):
	@mkdir -p $(@D)
	@printf '%s\n' '$(OBJDIR) $(pkglibdir)' > $@

$(EXTENSION).so: $(LINKED_FOR)

$(INSTALL_SCRIPT_SQL): $(SQL_TOPICS:%=sql/%) Makefile
	@mkdir -p $(@D)
	@{ printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; \
	   for topic in $(SQL_TOPICS); do printf '\n-- %s\n\n' "$$topic"; cat "sql/$$topic" || exit 1; done; } > $@.tmp
	@mv $@.tmp $@

# TAP tests create their own clusters from the installed server; run them as an ordinary user.
prove_installcheck: programs
	rm -rf tmp_check
	test/run_tap.sh prove $(PROVE_FLAGS) $(if $(PROVE_TESTS),$(PROVE_TESTS),test/tap/*.pl)
.PHONY: prove_installcheck

else
# ---------------------------------------------------------------- no PostgreSQL development files

all install installcheck prove_installcheck:
	@echo >&2 "PostgreSQL's development files (pg_config, PGXS and postgres.h) were not found. On Debian:"
	@echo >&2 "    apt-get install g++ make postgresql-server-dev-all libcurl4-openssl-dev libmicrohttpd-dev libssl-dev nlohmann-json3-dev"
	@echo >&2 "or say where it is: make PG_CONFIG=/path/to/pg_config"
	@echo >&2 "(make demo and make test install what they need by themselves.)"
	@exit 1

clean:
.PHONY: all install installcheck prove_installcheck clean
endif

# ---------------------------------------------------------------- what works before anything is installed

clean: clean-tests
clean-tests:
	@[ ! -e build/demo.state ] || test/demo/down.sh
	rm -rf build results output_iso tmp_check tmp_check_iso regression.diffs regression.out

help:
	@echo "make                  build mana_ai.so and its install script"
	@echo "make install          install them into the server of PG_CONFIG"
	@echo "make installcheck     regression and isolation tests against the running, installed server"
	@echo "make prove_installcheck  TAP tests against the installed server, in separate clusters"
	@echo
	@echo "These install missing Debian packages and never touch an installed server or its clusters:"
	@echo "make demo             plan one mission in a throwaway cluster and show the result"
	@echo "make demo-up          the same, left running, with its HTML page; make demo-down ends it"
	@echo "make test             all tests; RINGS='unit regress' runs only these"
	@echo "make crash-matrix     kill, fail and delay the server at every failpoint"
	@echo "make sanitize         the tests in a server under AddressSanitizer; RINGS='regress isolation tap'"
	@echo "make valgrind         memcheck over the trigger, in postgres --single"
	@echo "make torture          everything that goes wrong at once: MINUTES=10 SEED=..., or KILLS=200, or HOSTILE_ROWS=1000000"
	@echo "make bench            the figures of docs/performance.md"
	@echo "make fresh            demo and tests in fresh Debian systems, as root: STATE=trixie-minimal, ONLY=demo"
	@echo
	@echo "make matrix           the tests with each server of PG_CONFIGS='…' (nothing is installed)"
	@echo "make deb              Debian packages (needs debhelper and postgresql-server-dev-all); make dist: PGXN's zip"
	@echo
	@echo "make unit             unit tests of core, crypto and net, without PostgreSQL"
	@echo "make fuzz             fuzzers, FUZZ_SECONDS=20 each (needs clang)"
	@echo "make layering         no layer includes what it must not"
	@echo "make format           clang-format; make check-format only checks"
	@echo "make clean            remove everything that was built"

test:
	@test/bootstrap.sh && test/run_all.sh $(RINGS)

fresh:
	@test/fresh/run.sh $(STATE)

matrix:
	@test/fresh/matrix.sh $(PG_CONFIGS)

# The archive for PGXN: the committed files, below a folder with name and version.
DIST = $(EXTENSION)-$(EXTVERSION)
dist:
	git archive --format=zip --prefix=$(DIST)/ -o $(DIST).zip HEAD

# For the PostgreSQL versions that this release of Debian has. The packages are written next to the checkout.
deb:
	pg_buildext updatecontrol
	dpkg-buildpackage -us -uc -b

crash-matrix:
	@test/bootstrap.sh && MANA_AI_MATRIX="$(or $(CASES),kill error sleep)" FILTER=037 TAP_TIMEOUT=3600 test/run_all.sh tap

sanitize:
	@test/bootstrap.sh && test/sanitize/run.sh $(RINGS)

valgrind:
	@PACKAGES=valgrind test/bootstrap.sh && test/sanitize/valgrind.sh

torture:
	@test/bootstrap.sh && TORTURE_MINUTES="$(MINUTES)" TORTURE_SEED="$(SEED)" TORTURE_KILLS="$(KILLS)" TORTURE_ROWS="$(HOSTILE_ROWS)" \
		test/run_all.sh torture

demo:
	@test/bootstrap.sh demo && test/demo/run.sh

demo-up:
	@test/bootstrap.sh demo && test/demo/up.sh

demo-down:
	@test/demo/down.sh

bench:
	@test/bootstrap.sh && test/bench/run.sh

programs demo-programs unit unit-program bench-programs fuzz:
	@$(MAKE) --no-print-directory -f test/Makefile $@

layering:
	@test/layering_test

FORMATTED = $(wildcard src/*/*.[ch]pp src/*/*/*.[ch]pp include/mana_ai/*/*.hpp include/mana_ai/*/*/*.hpp test/unit/*/*.[ch]pp test/unit/*/*/*.[ch]pp test/servers/*.[ch]pp test/client/*.[ch]pp test/fuzz/*.[ch]pp)

format check-format:
	@if ! command -v clang-format >/dev/null; then echo "clang-format is not installed: skipped"; \
	else clang-format --style=file $(if $(filter format,$@),-i,--dry-run --Werror) $(FORMATTED); fi

.PHONY: help test fresh matrix dist deb crash-matrix sanitize valgrind torture demo demo-up demo-down bench programs demo-programs unit unit-program bench-programs fuzz layering format check-format clean-tests
.DEFAULT_GOAL = all
