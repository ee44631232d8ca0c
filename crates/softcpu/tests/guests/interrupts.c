/* The local APIC with its timer, the IOAPIC, the PICs with the PIT; priorities, NMI, what waits and what is lost. */
#include "guest.h"

static volatile int count[256];
static volatile u8 order[16];
static volatile int ordered;
static volatile u64 where;

static void counts(struct frame *f) {
  count[f->vector]++;
  where = f->rip;
  if (ordered < 16) order[ordered++] = f->vector;
  eoi();
}

static void counts_only(struct frame *f) { count[f->vector]++; }

static void on(int vector, void (*f)(struct frame *)) {
  count[vector] = 0;
  handlers[vector] = f;
}

static void ipi(u32 low) { APIC(0x300) = low; }
static void to_self(int vector) { ipi(0x44000 | vector); }

static bool comes(int vector, int times) {
  u64 begin = rdtsc();
  while (count[vector] < times && rdtsc() - begin < 4000000000) pause();
  return count[vector] == times;
}

static void selves(void) {
  on(0x51, counts);
  on(0x52, counts);
  on(0x61, counts);
  to_self(0x51);
  equal(count[0x51], 0, "no interrupt without IF");
  equal(APIC(0x200 + 0x10 * 2) >> 17 & 1, 1, "IRR");
  asm volatile("sti\n 1: nop\n cli");
  equal(count[0x51], 1, "an interrupt behind sti's next instruction");
  asm volatile("sti; cli");
  to_self(0x51);
  asm volatile("sti; cli");
  equal(count[0x51], 1, "no interrupt between sti and cli");
  asm volatile("sti; nop; cli");
  equal(count[0x51], 2, "the interrupt that waited");
  /* By priority, not by time. */
  ordered = 0;
  to_self(0x51);
  to_self(0x61);
  to_self(0x52);
  asm volatile("sti; nop; nop; nop; nop; cli");
  check(ordered == 3 && order[0] == 0x61 && order[1] == 0x52 && order[2] == 0x51, "priorities");
  /* The task's priority. */
  set_cr8(6);
  ordered = 0;
  to_self(0x51);
  to_self(0x61);
  sti();
  equal(ordered, 0, "both held back by the task's priority");
  equal(APIC(0xa0), 0x60, "the processor's priority");
  set_cr8(5);
  equal(count[0x61], 2, "the higher one comes as the priority falls");
  APIC(0x80) = 0;
  equal(count[0x51], 4, "the lower one comes as the priority falls to zero");
  cli();
  /* Twice the same is once. */
  int before = count[0x51];
  to_self(0x51);
  to_self(0x51);
  asm volatile("sti; nop; nop; cli");
  equal(count[0x51], before + 1, "one bit a vector");
  sti();
  to_self(0x51);
  equal(count[0x51], before + 2, "to itself, at once");
  cli();
  APIC(0x280) = 0;
  ipi(0x44000 | 5);
  APIC(0x280) = 0;
  equal(APIC(0x280) & 0x20, 0x20, "a vector below 16 is an error");
  APIC(0x280) = 0;
  /* A vector in service holds back its class. */
  on(0x53, counts_only);
  sti();
  to_self(0x53);
  equal(count[0x53], 1, "in service");
  equal(APIC(0x100 + 0x10 * 2) >> 19 & 1, 1, "ISR");
  before = count[0x51];
  to_self(0x51);
  equal(count[0x51], before, "held back by the one in service");
  eoi();
  asm volatile("nop");
  equal(count[0x51], before + 1, "after its end");
  cli();
}

static u64 hypercall(u64 number, u64 low, u64 high, u64 first, u64 command) {
  asm volatile("vmcall" : "+a"(number) : "b"(low), "c"(high), "d"(first), "S"(command) : "memory");
  return number;
}

/* What KVM's guests may ask for. */
static void calls(void) {
  on(0x51, counts);
  u64 own = APIC(0x20) >> 24;
  sti();
  equal(hypercall(10, 1, 0, own, 0x51), 1, "interrupts for one processor");
  equal(count[0x51], 1, "it comes");
  equal(hypercall(10, 0xffffffff, 0, 0xffffffff, 0), 0, "nobody is there");
  equal(hypercall(10, 1, 0, own, 0x40051), -22, "a shorthand");
  equal(hypercall(0x1234, 0, 0, 0, 0), -1000, "no such call");
  equal(count[0x51], 1, "no more came");
  cli();
  /* The call is done before the next instruction turns out to be nowhere. */
  static const u8 call[] = {0x0f, 0x01, 0xc1};
  u8 *last = fresh_page();
  for (int i = 0; i < 3; i++) last[4093 + i] = call[i];
  map(0x7ffffffff000, (u64)last, P | W);
  u64 answer = -1ull;
  equal(TRY("jmp *%1", : "+a"(answer) : "r"(0x7ffffffffffdull) : "memory"), 13, "behind the last canonical address");
  equal(seen.rip, 0x800000000000, "where the fault is");
  equal(answer, -1000, "a call as the last instruction there is");
}

static void timers(void) {
  on(0x71, counts);
  APIC(0x3e0) = 0xb;
  APIC(0x320) = 0x71;
  sti();
  u64 begin = rdtsc();
  APIC(0x380) = 100000;
  check(comes(0x71, 1), "a timer, once");
  check(rdtsc() - begin >= 100000, "not early");
  equal(APIC(0x390), 0, "the count is over");
  APIC(0x320) = 0x71 | 1 << 17;
  on(0x71, counts);
  APIC(0x380) = 1000000;
  check(APIC(0x390) != 0, "the count");
  u64 end = rdtsc();
  while (count[0x71] < 3 && rdtsc() - end < 4000000000) asm volatile("hlt");
  check(count[0x71] >= 3, "a timer, again and again");
  APIC(0x380) = 0;
  APIC(0x320) = 0x71 | 1 << 16;
  APIC(0x320) = 0x71;
  on(0x71, counts);
  asm volatile("sti; nop");
  APIC(0x380) = 0xffffff00;
  APIC(0x320) = 0x71 | 1 << 16;
  APIC(0x380) = 0;
  equal(count[0x71], 0, "a timer that was stopped");
  if (has(1, 2, 24)) {
    APIC(0x320) = 0x71 | 2 << 17;
    asm volatile("mfence");
    on(0x71, counts);
    cli();
    wrmsr(0x6e0, rdtsc() + 3000000);
    check(rdmsr(0x6e0) != 0, "a deadline");
    sti();
    while (!count[0x71]) asm volatile("sti; hlt");
    equal(rdmsr(0x6e0), 0, "a deadline that has come");
    wrmsr(0x6e0, rdtsc());
    asm volatile("nop");
    equal(count[0x71], 2, "a deadline that is past comes at once");
    wrmsr(0x6e0, rdtsc() + 100000000000);
    wrmsr(0x6e0, 0);
    equal(rdmsr(0x6e0), 0, "a deadline taken back");
    APIC(0x320) = 0x71 | 1 << 16;
  }
  cli();
}

#define IOAPIC(r) (*(volatile u32 *)0xfec00000 = (r), *(volatile u32 *)0xfec00010)

static void set_ioapic(u32 r, u32 v) {
  *(volatile u32 *)0xfec00000 = r;
  *(volatile u32 *)0xfec00010 = v;
}

static void lines(void) {
  equal(IOAPIC(1) >> 16 & 0xff, 23, "24 inputs");
  set_ioapic(0x11, 0);
  set_ioapic(0x10 + 2 * 7, 0x10075);
  equal(IOAPIC(0x10 + 2 * 7) & 0x1ffff, 0x10075, "an entry");
  /* The PIT by the IOAPIC: input 2 on a PC, 0 where the first input is the timer's. */
  on(0x75, counts);
  set_ioapic(0x10, 0x75);
  set_ioapic(0x14, 0x75);
  set_ioapic(0x11, 0);
  set_ioapic(0x15, 0);
  sti();
  outb(0x43, 0x30);
  outb(0x40, 0xe8);
  outb(0x40, 3);
  check(comes(0x75, 1), "the PIT by the IOAPIC");
  cli();
  set_ioapic(0x10, 0x10000);
  set_ioapic(0x14, 0x10000);
  /* And by the PICs through LINT0. */
  outb(0x20, 0x11);
  outb(0x21, 0x78);
  outb(0x21, 4);
  outb(0x21, 1);
  outb(0xa0, 0x11);
  outb(0xa1, 0x88);
  outb(0xa1, 2);
  outb(0xa1, 1);
  outb(0x21, 0xfe);
  outb(0xa1, 0xff);
  equal(inb(0x21), 0xfe, "the mask");
  APIC(0x350) = 0x700;
  on(0x78, counts_only);
  sti();
  outb(0x43, 0x30);
  outb(0x40, 0xe8);
  outb(0x40, 3);
  check(comes(0x78, 1), "the PIT by the PICs");
  outb(0x20, 0x0b);
  equal(inb(0x20), 1, "in service at the PIC");
  outb(0x20, 0x20);
  outb(0x20, 0x0b);
  equal(inb(0x20), 0, "ended at the PIC");
  cli();
  outb(0x21, 0xff);
  APIC(0x350) = 0x10000;
}

static volatile int nmis, nested, in_nmi;

static void on_nmi(struct frame *f) {
  (void)f;
  nmis++;
  nested += in_nmi;
  in_nmi = 1;
  if (nmis == 1) {
    for (int i = 0; i < 5; i++) ipi(0x44400);
    asm volatile("nop; nop");
    equal(nmis, 1, "no NMI in an NMI");
  }
  in_nmi = 0;
}

static void unmaskable(void) {
  nmis = nested = 0;
  handlers[2] = on_nmi;
  cli();
  APIC(0x310) = 0;
  ipi(0x4400);
  asm volatile("nop");
  equal(nmis, 2, "an NMI, and one of those that came meanwhile");
  equal(nested, 0, "one after the other");
  handlers[2] = 0;
}

static void bases(void) {
  u64 base = rdmsr(0x1b);
  equal(base & 0x900, 0x900, "on, and the first processor's");
  equal(try_wrmsr(0x1b, base | 1), 13, "reserved low bits");
  equal(try_wrmsr(0x1b, base | 1ull << 45), 13, "a base beyond the physical address");
  equal(try_rdmsr(0x802), 13, "x2APIC registers in xAPIC mode");
  if (has(1, 2, 21)) {
    equal(try_wrmsr(0x1b, (base & ~0x800ull) | 0x400), 13, "x2APIC without APIC");
    wrmsr(0x1b, base | 0x400);
    equal(rdmsr(0x802), self(), "the id");
    equal(APIC(0x30), 0xffffffff, "no page in x2APIC mode");
    equal(try_wrmsr(0x802, 1), 13, "the id can't be written");
    equal(try_wrmsr(0x80b, 1), 13, "an end with a value");
    equal(try_rdmsr(0x80b), 13, "no reading of ends");
    equal(try_rdmsr(0x83f), 13, "no reading of self IPIs");
    equal(try_rdmsr(0x80e), 13, "no DFR");
    equal(try_rdmsr(0x831), 13, "no upper half of ICR");
    equal(try_wrmsr(0x1b, base & ~0x400ull), 13, "from x2APIC to xAPIC");
    wrmsr(0x80f, 0x1ff);
    on(0x55, counts);
    handlers[0x55] = counts_only;
    sti();
    wrmsr(0x83f, 0x55);
    equal(count[0x55], 1, "a self IPI");
    cli();
    wrmsr(0x80b, 0);
    wrmsr(0x1b, base & ~0xc00ull);
    equal(try_wrmsr(0x1b, base | 0x400), 13, "from off to x2APIC");
  } else {
    wrmsr(0x1b, base & ~0x800ull);
  }
  equal(APIC(0x30), 0xffffffff, "no page while it is off");
  wrmsr(0x1b, base);
  APIC(0xf0) = 0x1ff;
  equal(APIC(0x20) >> 24, self(), "the id in the page");
  u64 other = 0xfed40000;
  wrmsr(0x1b, (base & 0xfff) | other);
  equal(*(volatile u32 *)(other + 0x20) >> 24, self(), "the page elsewhere");
  wrmsr(0x1b, base);
}

void test_interrupts(void) {
  for (int i = 32; i < 256; i++) handlers[i] = i == 0x80 ? 0 : handlers[i];
  APIC(0xf0) = 0x1ff;
  APIC(0x80) = 0;
  selves();
  calls();
  timers();
  lines();
  unmaskable();
  bases();
  for (int i = 32; i < 256; i++) handlers[i] = 0;
}
