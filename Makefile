# SPDX-License-Identifier: MIT
#
#	make				build/ARCH/vinit
#	make ARCH=aarch64		cross build
#	make defconfig | tinyconfig | menuconfig
#	make install | size | clean | help
#	make unit-tests | fuzzers | fuzz | guest-tools	for scripts/check, which runs them
#
# O=DIR (build/ARCH), V=1, CC=, CROSS_COMPILE=, CFLAGS=, LDFLAGS=, DESTDIR=, PREFIX=

ARCH	?= $(shell uname -m)
O	?= build/$(ARCH)
PREFIX	?= /usr/local

# One spelling for each folder: it is a part of the flags, and changed flags rebuild all.
override O := $(patsubst $(CURDIR)/%,%,$(abspath $(O)))

ifeq ($(wildcard arch/$(ARCH)/Kbuild),)
$(error ARCH=$(ARCH): not supported, there is no arch/$(ARCH)/Kbuild)
endif

# Another architecture without a prefix of its own: Debian's cross compiler.
ifneq ($(ARCH),$(shell uname -m))
CROSS_COMPILE ?= $(ARCH)-linux-gnu-
endif

ifeq ($(origin CC),default)
CC	= $(CROSS_COMPILE)gcc
endif
STRIP	?= $(CROSS_COMPILE)strip
READELF	?= $(CROSS_COMPILE)readelf

# --- the compiler and where musl and the kernel's headers are --------------------------------------

ifneq ($(filter %musl-gcc,$(CC)),)
$(error CC=$(CC): its specs make a dynamic PIE of -static-pie; leave CC as it is, musl is found by itself)
endif

triple	:= $(shell $(CC) -dumpmachine 2>/dev/null)

# CFLAGS by default: the smallest code that the compiler makes. gcc's optimizer sees all of it at once when it links;
# clang's needs lld or a plugin for that, and does without.
cc-refuses = $(shell echo 'int main(void) { return 0; }' | \
	$(CC) $1 -nostdlib -Wl,-e,main -x c -o /dev/null - 2>&1 || echo no)
small	:= -Oz -fomit-frame-pointer
link-time := $(small) -flto -flto-partition=one -fno-tree-loop-im -fno-move-loop-invariants -fno-thread-jumps \
	-fno-tree-dominator-opts
ifeq ($(origin CFLAGS),undefined)
CFLAGS	:= $(if $(call cc-refuses,$(small)),-Os,$(if $(call cc-refuses,$(link-time)),$(small),$(link-time)))
endif

ifneq ($(findstring musl,$(triple)),)
# A musl tool chain knows its own libc and start files.
libc-cflags	:=
link-start	:= -static-pie
link-end	:=
else
# A glibc compiler with Debian's musl-dev beside it. musl-gcc would not do: its specs turn
# -static-pie into a dynamic PIE with an interpreter.
musl-inc	:= /usr/include/$(ARCH)-linux-musl
musl-lib	:= /usr/lib/$(ARCH)-linux-musl
uapi		:= $(O)/uapi
# linux/ and asm/ come through links of our own, so that no header of glibc can slip in.
uapi-from	:= $(firstword $(wildcard /usr/$(ARCH)-linux-gnu/include/asm /usr/include/$(ARCH)-linux-gnu/asm))
uapi-generic	:= $(firstword $(wildcard /usr/$(ARCH)-linux-gnu/include/linux /usr/include/linux))
cc-include	:= $(shell $(CC) -print-file-name=include)
libc-cflags	:= -nostdinc -isystem $(musl-inc) -isystem $(cc-include) -isystem $(uapi)
link-start	:= -nostdlib -static-pie $(musl-lib)/rcrt1.o $(musl-lib)/crti.o -L$(musl-lib)
link-end	:= -lc -lgcc $(musl-lib)/crtn.o
endif

warnings := \
	-Wall \
	-Wextra \
	-Werror \
	-Wshadow \
	-Wstrict-prototypes \
	-Wmissing-prototypes \
	-Wold-style-definition \
	-Wvla \
	-Wundef \
	-Wno-unused-parameter

hardening := \
	-fPIE \
	-fstack-protector \
	--param=ssp-buffer-size=4 \
	-fno-strict-aliasing \
	-fno-common \
	-ffunction-sections \
	-fdata-sections \
	-fno-asynchronous-unwind-tables

# The largest page that hosts have.
page-size := 4096
arch-cflags :=
arch-ldflags :=
include arch/$(ARCH)/Makefile.flags
# The linker's own layout leaves gaps of up to a page in the file.
link-script := vinit.lds
arch-ldflags += -Wl,-z,noseparate-code -Wl,-z,max-page-size=$(page-size) -Wl,-z,common-page-size=$(page-size) \
		-Wl,-T,$(link-script)

all-cflags := -std=gnu11 -D_GNU_SOURCE $(libc-cflags) -I. -include $(O)/config.h \
	      $(warnings) $(hardening) $(arch-cflags) $(CFLAGS)
all-ldflags := -Wl,-z,relro,-z,now -Wl,-z,noexecstack -Wl,--gc-sections -Wl,--build-id=none \
	       $(arch-ldflags) $(LDFLAGS)

# --- what is built ---------------------------------------------------------------------------------

dirs	:= cmd api initramfs vsock virtio vm arch/$(ARCH)

-include $(O)/.config

objs	:= $(foreach d,$(dirs),$(eval obj-y :=)$(eval include $d/Kbuild)$(obj-y:%=$(O)/$d/%))

guest-tools := $(patsubst %.c,$(O)/%,$(wildcard tests/guest/*.c))

# make -s says nothing, make V=1 the whole commands.
silent	:= $(findstring s,$(filter-out --%,$(firstword -$(MAKEFLAGS))))
say	= $(if $(silent),:,$(if $(V),echo '$(subst ','\'',$2)',echo '  $1'))
cmd	= @$(call say,$(quiet_cmd_$1),$(cmd_$1)); mkdir -p $(@D); $(cmd_$1)

quiet_cmd_cc	= CC      $@
      cmd_cc	= $(CC) $(all-cflags) -MMD -MP -c -o $@ $<
quiet_cmd_link	= LINK    $@
      cmd_link	= $(CC) $(hardening) $(arch-cflags) $(CFLAGS) $(all-ldflags) $(link-start) -o $@ $(filter %.o,$^) $(link-end)
quiet_cmd_strip	= STRIP   $@
      cmd_strip	= $(STRIP) -o $@ $< && $(cut-sections)

# Nobody loads the table of sections, the file's last part; vinit.debug has it. Bytes 40 to 47 of the header say where it
# is, 58 to 63 how large.
cut-sections = truncate -s $$(($$($(READELF) -lW $@ | awk '$$1 == "LOAD" { end = $$2 "+" $$5 } END { print end }'))) $@ && \
	head -c 8 /dev/zero | dd of=$@ bs=1 seek=40 conv=notrunc status=none && \
	head -c 6 /dev/zero | dd of=$@ bs=1 seek=58 conv=notrunc status=none

all: $(O)/vinit

$(O)/vinit: $(O)/vinit.debug
	$(call cmd,strip)

$(O)/vinit.debug: $(objs) $(O)/.objs $(link-script)
	$(call cmd,link)

$(objs): $(O)/%.o: %.c $(O)/.flags $(O)/config.h $(uapi)
	$(call cmd,cc)

# Programs for tests, run in the nested host and its guests. The linker's own layout is good enough for them.
guest-tools: $(guest-tools)
$(guest-tools): private all-ldflags := $(filter-out $(arch-ldflags),$(all-ldflags))

$(O)/tests/guest/%.o: tests/guest/%.c $(O)/.flags $(O)/config.h $(uapi)
	$(call cmd,cc)

$(O)/tests/guest/%: $(O)/tests/guest/%.o
	$(call cmd,link)

.SECONDARY:

# A changed flag rebuilds all, an unchanged one nothing; a file that joins or leaves links anew.
stamp	= @mkdir -p $(@D) && { echo '$1' | cmp -s - $@ || echo '$1' >$@; }

$(O)/.flags: FORCE
	$(call stamp,$(CC) $(all-cflags) $(all-ldflags))

$(O)/.objs: FORCE
	$(call stamp,$(objs))

ifdef uapi
$(uapi):
	@[ -d "$(musl-inc)" ] || { echo "$(musl-inc) is missing: install musl-dev, or run scripts/setup" >&2; exit 1; }
	@mkdir -p $@.tmp && ln -sfn $(uapi-generic) $@.tmp/linux && ln -sfn $(uapi-from) $@.tmp/asm && \
		for d in asm-generic video; do ln -sfn $(dir $(uapi-generic))$$d $@.tmp/$$d; done && mv -T $@.tmp $@
endif

# --- configuration ---------------------------------------------------------------------------------

# Kconfig's own tools where they are installed; without them the defaults build.
kconf	:= $(firstword $(shell command -v kconfig-conf kconfig-frontends-conf 2>/dev/null))
kmconf	:= $(firstword $(shell command -v kconfig-mconf 2>/dev/null))

# Every option is a bool: "default y" is all that there is to read.
kconfig-values = awk -v all=$1 '/^config/ { name = $$2 } /^\tdefault y/ { \
	if (all == "n") print "\# CONFIG_" name " is not set"; else print "CONFIG_" name "=y" }' Kconfig

$(O)/.config: Kconfig
	@mkdir -p $(@D)
	@if [ -e $@ ] && [ -n "$(kconf)" ]; then \
		KCONFIG_CONFIG=$@ $(kconf) --olddefconfig Kconfig >/dev/null; \
	elif [ -e $@ ]; then touch $@; \
	else $(call kconfig-values,y) >$@; fi; touch $@

# Every option is 0 or 1, so that C can say "if" and -Wundef finds a name that is none. What stays the same rebuilds
# nothing. Another make may be at it: each has a file of its own.
$(O)/config.h: $(O)/.config Makefile
	@awk 'FILENAME != "Kconfig" { if (sub(/=y$$/, "")) on[$$0] = 1; next } \
		/^config/ { print "#define CONFIG_" $$2, on["CONFIG_" $$2] + 0 }' $< Kconfig >$@.$$$$; \
		if cmp -s $@.$$$$ $@; then rm $@.$$$$; else mv $@.$$$$ $@; fi

defconfig:
	@mkdir -p $(O); $(call kconfig-values,y) >$(O)/.config; echo "  GEN     $(O)/.config"

tinyconfig:
	@mkdir -p $(O); $(call kconfig-values,n) >$(O)/.config; echo "  GEN     $(O)/.config"

menuconfig: $(O)/.config
	@[ -n "$(kmconf)" ] || { echo "menuconfig needs Debian's kconfig-frontends-nox; or edit $(O)/.config" >&2; exit 1; }
	@KCONFIG_CONFIG=$(O)/.config $(kmconf) Kconfig

# --- the rest --------------------------------------------------------------------------------------

install: $(O)/vinit
	install -D -m 0755 $(O)/vinit $(DESTDIR)$(PREFIX)/bin/vinit
	for page in docs/*.[1-8]; do \
		install -D -m 0644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/} || exit 1; \
	done

# Static, no interpreter, under the bound: the promise, checked.
SIZE_MAX := 262144
size: $(O)/vinit
	@bytes=$$(stat -c %s $<); echo "$<: $$bytes bytes, bound $(SIZE_MAX)"; \
	$(READELF) -lW $< | grep -q INTERP && { echo "$<: has an interpreter" >&2; exit 1; }; \
	$(READELF) -dW $< | grep -q NEEDED && { echo "$<: needs a shared library" >&2; exit 1; }; \
	$(READELF) -lW $< | grep -q GNU_RELRO || { echo "$<: no RELRO" >&2; exit 1; }; \
	$(READELF) -hW $< | grep -q 'DYN' || { echo "$<: not position-independent" >&2; exit 1; }; \
	[ $$bytes -le $(SIZE_MAX) ] || { echo "$<: over the bound" >&2; exit 1; }

include tests/Makefile.tests

# A header that needs another one first is a mistake.
header-alone: $(O)/config.h $(uapi)
	@$(CC) $(all-cflags) -fsyntax-only -x c $(H)

clean:
	rm -rf $(O)

help:
	@sed -n '3,10s/^# \{0,1\}//p' Makefile

FORCE:

.PHONY: header-alone all install size clean help defconfig tinyconfig menuconfig guest-tools FORCE

-include $(objs:.o=.d) $(guest-tools:=.d)
