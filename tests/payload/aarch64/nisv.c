/* SPDX-License-Identifier: MIT */
/*
 * Loads and stores that tell the hypervisor no syndrome, to where no memory is: each is an external
 * abort for the guest, at the address that it was for, and the VMM goes on. Slot 0 is a device.
 */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

static volatile uint32_t aborts;
static volatile uint64_t last_esr, last_far;

static bool on_abort(struct frame *f)
{
	if (ESR_EC(f->esr) != EC_DATA_ABORT)
		return false;
	aborts++;
	last_esr = f->esr;
	last_far = f->far;
	f->elr += 4;
	return true;
}

static void aborted(uint64_t at, const char *what)
{
	bool good = aborts == 1 && ESR_FSC(last_esr) == FSC_SYNC_EXTERNAL && last_far == at;

	check(good, what);
	if (!good)
		say("%u aborts, ESR 0x%lx, FAR 0x%lx, expected 0x%lx\n", aborts, last_esr, last_far, at);
	aborts = 0;
}

#define TRY(at, what, ...)                                            \
	do {                                                          \
		uint64_t where = (at);                                \
		__asm__ volatile(".arch_extension simd\n\t" __VA_ARGS__     \
				 : "+r"(where)                        \
				 :                                    \
				 : "x8", "x9", "x10", "v0", "v1", "memory"); \
		aborted(at, what);                                    \
	} while (0)

static void stores(uint64_t at)
{
	TRY(at, "stp of words", "stp wzr, wzr, [%0]");
	TRY(at, "stp", "stp xzr, xzr, [%0]");
	TRY(at, "post-indexed str", "str wzr, [%0], #4");
	TRY(at, "pre-indexed str", "str wzr, [%0, #0]!");
	TRY(at, "str of a SIMD register", "movi v0.2d, #0; str q0, [%0]");
	TRY(at, "str of a single", "movi v0.2d, #0; str s0, [%0]");
	TRY(at, "st1", "movi v0.2d, #0; st1 {v0.4s}, [%0]");
	TRY(at, "stp of SIMD registers", "movi v0.2d, #0; stp q0, q0, [%0]");
}

static void loads(uint64_t at)
{
	TRY(at, "ldp", "ldp x9, x10, [%0]");
	TRY(at, "post-indexed ldr", "ldr w9, [%0], #4");
	TRY(at, "ldr of a SIMD register", "ldr q0, [%0]");
	TRY(at, "load-exclusive", "ldxr w9, [%0]");
}

void payload_main(void)
{
	uint64_t base = machine_virtio_base(0);

	exception_hook = on_abort;
	say("hole:\n");
	stores(machine_hole());
	loads(machine_hole());
	check_eq(read32(machine_hole()), 0xffffffff, "a load with a syndrome finds nothing");
	check_eq(aborts, 0, "and aborts nothing");

	/* Loads from a register page may be served without an exit. */
	say("register page:\n");
	write32(base + R_STATUS, S_ACK);
	stores(base + R_STATUS);
	stores(base + R_QUEUE_NOTIFY);
	check_eq(read32(base + R_STATUS), S_ACK, "they wrote nothing");
	write32(base + R_STATUS, 0);
	check_eq(read32(base + R_STATUS), 0, "a store with a syndrome writes");

	say("serial port:\n");
	stores(LAYOUT_UART_BASE);
	loads(LAYOUT_UART_BASE);
	check_eq(aborts, 0, "no abort is left over");
	done();
}
