/* The local APIC's finer points: logical destinations, priorities, masks, errors, what each register takes; IPIs among processors in both modes. */
#include "guest.h"

static volatile u32 count[256], by[4];

static void counts(struct frame *f) {
  count[f->vector]++;
  asm volatile("lock incl %0" : "+m"(by[self()])::"memory", "cc");
  eoi();
}

static void counts_by_msr(struct frame *f) {
  asm volatile("lock incl %0; lock incl %1" : "+m"(by[self()]), "+m"(count[f->vector])::"memory", "cc");
  wrmsr(0x80b, 0);
}

static void stays(struct frame *f) { count[f->vector]++; }

static void on(int vector, void (*f)(struct frame *)) {
  count[vector] = 0;
  handlers[vector] = f;
}

static void window(void) { asm volatile("sti; nop; nop; cli" ::: "memory"); }

/* Whether an IPI with a destination of eight bits comes back to this processor. */
static bool comes(u32 destination, u32 low) {
  on(0x62, counts);
  APIC(0x310) = destination << 24;
  APIC(0x300) = low | 0x62;
  window();
  return count[0x62];
}

static void destinations(void) {
  u32 id = APIC(0x20) >> 24;
  check(comes(id, 0x4000), "a physical destination");
  check(comes(0xff, 0x4000), "all by a physical destination");
  check(!comes(id + 7, 0x4000), "somebody else");
  /* Flat: a bit each. */
  APIC(0xe0) = 0xffffffff;
  APIC(0xd0) = 0x12345678;
  equal(APIC(0xd0), 0x12000000, "the logical id has eight bits");
  for (int bit = 0; bit < 8; bit++) equal(comes(1 << bit, 0x4800), 0x12 >> bit & 1, "a bit of the flat model");
  check(comes(0x30, 0x4800), "one of several bits");
  check(!comes(0, 0x4800), "no bit");
  check(comes(0xff, 0x4800), "all by a logical destination");
  /* Clusters: a number and four bits. */
  APIC(0xe0) = 0;
  equal(APIC(0xe0), 0x0fffffff, "the model's low bits are ones");
  APIC(0xd0) = 0x25000000;
  check(comes(0x21, 0x4800), "one bit of a cluster");
  check(comes(0x24, 0x4800), "the other bit of a cluster");
  check(!comes(0x22, 0x4800), "another bit of the cluster");
  check(!comes(0x35, 0x4800), "another cluster");
  check(!comes(0x20, 0x4800), "a cluster without a bit");
  APIC(0xe0) = 0xffffffff;
  APIC(0xd0) = 0x01000000;
  check(comes(1, 0x4900), "the lowest priority, of one");
  APIC(0xd0) = 0;
  check(!comes(1, 0x4800), "no logical id");
}

/* PPR for every task priority and every class in service. */
static void priorities(void) {
  for (u32 class = 0; class < 16; class += 3) {
    int vector = class * 16 + 4;
    if (class > 1) {
      on(vector, stays);
      APIC(0x300) = 0x44000 | vector;
      window();
      equal(count[vector], 1, "in service");
    }
    u32 serving = class > 1 ? class : 0;
    for (u32 tpr = 0; tpr < 256; tpr += 17) {
      APIC(0x80) = tpr;
      u32 want = tpr >> 4 >= serving ? tpr : serving << 4;
      equal(APIC(0xa0), want, "the processor's priority");
      equal(cr8(), tpr >> 4, "cr8");
    }
    /* Each class that is above gets through, no other. */
    APIC(0x80) = 0x50;
    for (u32 other = 2; other < 16; other++) {
      if (other == serving) continue;
      on(other * 16 + 8, counts);
      APIC(0x300) = 0x44000 | (other * 16 + 8);
      window();
      bool through = other > 5 && other > serving;
      equal(count[other * 16 + 8], through, "a class above, or not");
      APIC(0x80) = 0;
      if (!through && other > serving) window();
      APIC(0x80) = 0x50;
    }
    APIC(0x80) = 0;
    if (class > 1) eoi();
    window();
    equal(APIC(0xa0), 0, "nothing in service");
    for (int word = 0; word < 8; word++) equal(APIC(0x200 + 16 * word) | APIC(0x100 + 16 * word), 0, "nothing waits");
    for (int v = 32; v < 256; v++)
      if (v != 0x80) handlers[v] = 0;
  }
}

static void masks(void) {
  static const u32 entries[] = {0x320, 0x330, 0x340, 0x350, 0x360, 0x370};
  static const u32 bits[] = {0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};
  for (int i = 0; i < 6; i++) {
    APIC(entries[i]) = 0x10000;
    APIC(entries[i]) = ~0u;
    /* The timer's third mode is there where CPUID says so; the delivery mode's bits are what they are elsewhere. */
    u32 got = APIC(entries[i]);
    equal(got & ~bits[i], 0, "bits of an entry that are none");
    equal(got & 0x100ff, 0x100ff, "vector and mask of an entry");
    APIC(entries[i]) = 0x100f0 + i;
    equal(APIC(entries[i]), 0x100f0 + i, "an entry");
  }
  APIC(0x320) = 0x66;
  APIC(0xf0) = 0xff;
  equal(APIC(0x320), 0x10066, "masked as the APIC is switched off");
  APIC(0x320) = 0x66;
  equal(APIC(0x320), 0x10066, "no unmasking while it is off");
  on(0x66, counts);
  APIC(0x300) = 0x44066;
  window();
  equal(count[0x66], 0, "no interrupt while it is off");
  APIC(0xf0) = 0x1ff;
  equal(APIC(0x320), 0x10066, "still masked when it is on");
  window();
  /* A timer that is masked counts all the same, and its interrupt is lost. */
  APIC(0x3e0) = 0xb;
  APIC(0x380) = 20000;
  u64 begin = rdtsc();
  while (APIC(0x390) && rdtsc() - begin < 4000000000) pause();
  equal(APIC(0x390), 0, "a masked timer counts");
  APIC(0x320) = 0x66;
  window();
  equal(count[0x66], 0, "what a masked timer would have said is lost");
  /* Dividers: bit 2 is none. */
  APIC(0x3e0) = 0xff;
  equal(APIC(0x3e0), 0xb, "the divider's bits");
  if (has(1, 2, 24)) {
    /* The count means nothing in the mode of deadlines, the deadline nothing in others. */
    APIC(0x320) = 0x10066;
    wrmsr(0x6e0, rdtsc() + 1000000000000);
    equal(rdmsr(0x6e0), 0, "no deadline in another mode");
    APIC(0x320) = 0x10066 | 2 << 17;
    APIC(0x380) = 12345;
    equal(APIC(0x390), 0, "no count in the mode of deadlines");
    wrmsr(0x6e0, rdtsc() + 1000000000000);
    check(rdmsr(0x6e0) != 0, "a deadline");
    APIC(0x320) = 0x10066;
    APIC(0x320) = 0x10066 | 2 << 17;
    equal(rdmsr(0x6e0), 0, "a change of mode disarms");
    APIC(0x320) = 0x10066;
  }
  handlers[0x66] = 0;
}

static void errors(void) {
  APIC(0x280) = 0;
  APIC(0x280) = 0;
  equal(APIC(0x280), 0, "no error");
  on(0x67, counts);
  APIC(0x370) = 0x67;
  APIC(0x300) = 0x4400f;
  equal(APIC(0x280), 0, "errors are shown when they are asked for");
  APIC(0x280) = 0;
  equal(APIC(0x280) & 0x20, 0x20, "a vector that may not be sent");
  window();
  equal(count[0x67], 1, "an error's interrupt");
  APIC(0x280) = 0;
  equal(APIC(0x280), 0, "an error is shown once");
  APIC(0x370) = 0x10067;
  handlers[0x67] = 0;
}

/* x2APIC: every number of its block, by what reads and writes say. */
static bool has_register(u32 n, bool write) {
  if (n >= 0x10 && n < 0x28) return !write;
  switch (n) {
    case 2: case 3: case 0xa: case 0xd: case 0x39: return !write;
    case 0xb: case 0x3f: return write;
    case 8: case 0xf: case 0x28: case 0x30: case 0x38: case 0x3e: return true;
    default: return n >= 0x32 && n <= 0x37;
  }
}

static void numbers(void) {
  if (!has(1, 2, 21)) return;
  u64 base = rdmsr(0x1b);
  wrmsr(0x1b, base | 0x400);
  for (u32 n = 0; n < 0x100; n++) {
    equal(try_rdmsr(0x800 + n), has_register(n, false) ? -1 : 13, "a read of a register by its number");
    /* Processors differ in whether there is one for corrected machine checks. */
    if (n == 0x2f) continue;
    if (!has_register(n, true)) equal(try_wrmsr(0x800 + n, 0), 13, "a write of a register by its number");
    if (n != 0x30 && has_register(n, true)) equal(try_wrmsr(0x800 + n, 1ull << 32), 13, "upper bits of a register");
  }
  u32 id = rdmsr(0x802);
  equal(rdmsr(0x80d), (id >> 4) << 16 | 1 << (id & 15), "the logical id follows from the id");
  equal(try_wrmsr(0x808, 0x100), 13, "a task's priority above 255");
  equal(try_wrmsr(0x828, 1), 13, "the error register takes zero");
  equal(try_wrmsr(0x83e, 4), 13, "a divider that is none");
  equal(try_wrmsr(0x83f, 0x100), 13, "a self IPI above 255");
  on(0x63, counts_by_msr);
  wrmsr(0x830, (u64)id << 32 | 0x4063);
  window();
  equal(count[0x63], 1, "an IPI in one write");
  equal(rdmsr(0x830), (u64)id << 32 | 0x4063, "what was written last");
  wrmsr(0x830, 0xffffffffull << 32 | 0x4063);
  window();
  equal(count[0x63], 2, "all by the physical destination of 32 bits");
  wrmsr(0x830, (u64)(1 << id) << 32 | 0x4863);
  window();
  equal(count[0x63], 3, "by the logical id");
  wrmsr(0x830, (u64)(1 << id | 0x10000) << 32 | 0x4863);
  window();
  equal(count[0x63], 3, "another cluster");
  wrmsr(0x1b, base & ~0xc00ull);
  wrmsr(0x1b, base);
  APIC(0xf0) = 0x1ff;
}

static volatile u32 leave, here;

/* What was meant for all waits at the others as well. */
static void takes(void *_) {
  (void)_;
  window();
}

static void drain(void) {
  on(0x62, counts);
  on(0x63, counts);
  for (u32 i = 1; i < processors; i++) run_on(i, takes, 0);
  for (u32 i = 1; i < processors; i++) wait_for(i);
  handlers[0x62] = handlers[0x63] = 0;
}

static void waits(void *how) {
  u64 base = rdmsr(0x1b);
  if (how) wrmsr(0x1b, base | 0x400);
  if (!how) APIC(0xd0) = 1u << (24 + self());
  if (!how) APIC(0xe0) = ~0u;
  asm volatile("lock incl %0" : "+m"(here)::"memory", "cc");
  asm volatile("sti");
  while (!leave) pause();
  asm volatile("cli");
  if (how) {
    wrmsr(0x1b, base & ~0xc00ull);
    wrmsr(0x1b, base);
    APIC(0xf0) = 0x1ff;
  }
  asm volatile("lock decl %0" : "+m"(here)::"memory", "cc");
}

static bool all_of(u32 mask, u32 times) {
  u64 begin = rdtsc();
  for (;;) {
    bool good = true;
    for (u32 i = 0; i < processors; i++) good &= by[i] >= (mask >> i & 1 ? times : 0);
    if (good || rdtsc() - begin > 20000000000) break;
    pause();
  }
  bool exact = true;
  for (u32 i = 0; i < processors; i++) exact &= by[i] == (mask >> i & 1 ? times : 0);
  for (u32 i = 0; i < processors; i++) by[i] = 0;
  return exact;
}

static void among(bool numbered) {
  if (processors < 2 || (numbered && !has(1, 2, 21))) return;
  on(0x64, numbered ? counts_by_msr : counts);
  for (u32 i = 0; i < processors; i++) by[i] = 0;
  leave = here = 0;
  u64 base = rdmsr(0x1b);
  for (u32 i = 1; i < processors; i++) run_on(i, waits, (void *)(u64)numbered);
  while (here != processors - 1) pause();
  if (numbered) {
    wrmsr(0x1b, base | 0x400);
  } else {
    APIC(0xe0) = ~0u;
    APIC(0xd0) = 1 << 24;
  }
  for (u32 mask = 0; mask < 1u << processors; mask += 2) {
    if (numbered) {
      wrmsr(0x830, (u64)mask << 32 | 0x4864);
    } else {
      APIC(0x310) = mask << 24;
      APIC(0x300) = 0x4864;
    }
    check(all_of(mask, 1), "a set of processors");
  }
  for (u32 i = 1; i < processors; i++) {
    if (numbered) {
      wrmsr(0x830, (u64)i << 32 | 0x4064);
    } else {
      APIC(0x310) = i << 24;
      APIC(0x300) = 0x4064;
    }
    check(all_of(1u << i, 1), "one processor by its id");
  }
  if (numbered)
    wrmsr(0x830, 0xc4064);
  else
    APIC(0x300) = 0xc4064;
  check(all_of((1u << processors) - 2, 1), "all others");
  leave = 1;
  if (numbered) {
    wrmsr(0x1b, base & ~0xc00ull);
    wrmsr(0x1b, base);
    APIC(0xf0) = 0x1ff;
  }
  while (here) pause();
  for (u32 i = 1; i < processors; i++) wait_for(i);
}

void test_apic(void) {
  APIC(0xf0) = 0x1ff;
  APIC(0x80) = 0;
  destinations();
  priorities();
  masks();
  errors();
  numbers();
  drain();
  among(false);
  among(true);
  for (int i = 32; i < 256; i++) handlers[i] = 0;
}
