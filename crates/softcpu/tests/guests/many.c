/* Several processors: locks, orders of memory, shootdowns, code that another one changes, NMI, INIT. */
#include "guest.h"

#define AT 0x250000000000ull
#define TIMES 3000

static volatile u32 ready, stop, hits, lock, flushed, served;
static volatile u64 plain, exact, pair[2] __attribute__((aligned(64)));

static void meet(u32 n) {
  asm volatile("lock incl %0" : "+m"(ready)::"memory");
  while (ready < n) pause();
}

static void take(volatile u32 *l) {
  u32 one;
  do {
    one = 1;
    asm volatile("xchgl %0, %1" : "+r"(one), "+m"(*l)::"memory");
    if (one) pause();
  } while (one);
}

static void adds(void *n) {
  meet((u32)(u64)n);
  for (int i = 0; i < TIMES; i++) {
    take(&lock);
    plain = plain + 1;
    asm volatile("" ::: "memory");
    lock = 0;
    asm volatile("lock incq %0" : "+m"(exact)::"memory", "cc");
    u64 old, next;
    do {
      old = pair[0];
      next = old + 2;
      bool done;
      asm volatile("lock cmpxchgq %3, %1; setz %0" : "=q"(done), "+m"(pair[0]), "+a"(old) : "r"(next) : "memory", "cc");
      if (done) break;
    } while (1);
    u64 one = 1;
    asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(pair[1])::"memory", "cc");
  }
}

static void everybody(void (*f)(void *)) {
  ready = 0;
  for (u32 i = 1; i < processors; i++) run_on(i, f, (void *)(u64)processors);
  f((void *)(u64)processors);
  for (u32 i = 1; i < processors; i++) wait_for(i);
}

/* Stores are seen in order; a store and a later load are only with a fence between. */
static volatile u32 x, y, seen_x, seen_y;

static void writer(void *_) {
  for (u32 i = 1; i <= 20000; i++) {
    x = i;
    y = i;
  }
}

static void reader(void) {
  run_on(1, writer, 0);
  bool good = true;
  while (y < 20000) {
    u32 later = y;
    asm volatile("" ::: "memory");
    good &= x >= later;
    pause();
  }
  wait_for(1);
  check(good, "stores are seen in their order");
  x = y = 0;
}

static void dekker(void *n) {
  volatile u32 *mine = n ? &x : &y, *other = n ? &y : &x, *saw = n ? &seen_x : &seen_y;
  *mine = 1;
  asm volatile("mfence" ::: "memory");
  *saw = *other;
}

static void fences(void) {
  bool good = true;
  for (int i = 0; i < 100; i++) {
    x = y = 0;
    run_on(1, dekker, (void *)1);
    dekker(0);
    wait_for(1);
    good &= seen_x || seen_y;
  }
  check(good, "a fence between a store and a load");
}

static void on_flush(struct frame *f) {
  (void)f;
  invlpg((void *)AT);
  asm volatile("lock incl %0" : "+m"(flushed)::"memory");
  eoi();
}

static void watches(void *_) {
  asm volatile("sti");
  u64 last = 0;
  while (!stop) {
    u64 now = *(volatile u64 *)AT;
    if (now < last) hits++;
    last = now;
  }
  asm volatile("cli");
}

/* Every processor reads by one address whose page changes; after the shootdown nobody sees the old one. */
static void shootdowns(void) {
  u8 *one = fresh_page(), *two = fresh_page();
  handlers[0x91] = on_flush;
  hits = stop = 0;
  map(AT, (u64)one, P | W);
  for (u32 i = 1; i < processors; i++) run_on(i, watches, 0);
  for (u64 i = 1; i < 60; i++) {
    u64 *next = (u64 *)(i & 1 ? two : one);
    *(volatile u64 *)next = i;
    flushed = 0;
    map(AT, (u64)next, P | W);
    APIC(0x300) = 0xc4091;
    while (flushed < processors - 1) pause();
    *(volatile u64 *)(i & 1 ? one : two) = 0;
  }
  stop = 1;
  for (u32 i = 1; i < processors; i++) wait_for(i);
  equal(hits, 0, "a page that was gone was read");
}

static void on_sync(struct frame *f) {
  (void)f;
  u32 r[4];
  cpuid(0, 0, r);
  asm volatile("lock incl %0" : "+m"(flushed)::"memory");
  eoi();
}

static void on_patched(struct frame *f) {
  /* Behind int3: go round until the instruction is whole. */
  f->rip -= 1;
  asm volatile("lock incl %0" : "+m"(served)::"memory");
}

static void runs(void *_) {
  asm volatile("sti");
  u64 last = 0;
  while (!stop) {
    u64 now = ((u64(*)(void))AT)();
    if (now < last || now > 1000) hits++;
    last = now;
  }
  asm volatile("cli");
}

/* As Linux changes code that others run: int3 first, then the rest, then the first byte, with a signal to all between. */
static void patches(void) {
  u8 *code = fresh_page();
  static const u8 first[] = {0xb8, 0, 0, 0, 0, 0xc3};
  for (unsigned i = 0; i < sizeof first; i++) code[i] = first[i];
  map(AT, (u64)code, P | W);
  map(AT + 0x1000, (u64)code, P | W);
  handlers[0x92] = on_sync;
  handlers[3] = on_patched;
  hits = stop = 0;
  for (u32 i = 1; i < processors; i++) run_on(i, runs, 0);
  volatile u8 *alias = (u8 *)(AT + 0x1000);
  for (u32 n = 1; n < 30; n++) {
    for (int step = 0; step < 3; step++) {
      if (step == 0) alias[0] = 0xcc;
      if (step == 1) *(volatile u32 *)(alias + 1) = n;
      if (step == 2) alias[0] = 0xb8;
      flushed = 0;
      APIC(0x300) = 0xc4092;
      while (flushed < processors - 1) pause();
    }
    equal(((u64(*)(void))AT)(), n, "what was patched");
  }
  stop = 1;
  for (u32 i = 1; i < processors; i++) wait_for(i);
  equal(hits, 0, "half an instruction was run");
  handlers[3] = 0;
}

/* An interrupt to a processor that halts, and answers. */
static void on_answer(struct frame *f) {
  (void)f;
  asm volatile("lock incl %0" : "+m"(served)::"memory");
  eoi();
}

/* Those that need not halt again; told by a vector of its own, so that nothing is on its way to who has left. */
static volatile u32 left;

static void on_leave(struct frame *f) {
  (void)f;
  asm volatile("lock orl %1, %0" : "+m"(left) : "r"(1u << self()) : "memory", "cc");
  eoi();
}

static void halts(void *_) {
  while (!(left & 1u << self())) asm volatile("sti; hlt; cli");
}

static void wakes(void) {
  handlers[0x93] = on_answer;
  handlers[0x94] = on_leave;
  left = served = 0;
  run_on(1, halts, 0);
  for (u32 i = 1; i <= 60; i++) {
    APIC(0x310) = 1 << 24;
    APIC(0x300) = 0x4093;
    u64 begin = rdtsc();
    while (served < i && rdtsc() - begin < 20000000000) pause();
    if (served != i) break;
  }
  equal(served, 60, "a halted processor wakes");
  APIC(0x300) = 0x4094;
  wait_for(1);
  /* To all, to all others, by logical destination. */
  left = served = 0;
  for (u32 i = 1; i < processors; i++) run_on(i, halts, 0);
  u64 begin = rdtsc();
  APIC(0x310) = 0xff000000;
  APIC(0x300) = 0x4093;
  asm volatile("sti");
  while (served < processors && rdtsc() - begin < 20000000000) pause();
  equal(served, processors, "to every processor by the address of all");
  APIC(0x300) = 0x84093;
  while (served < 2 * processors && rdtsc() - begin < 20000000000) pause();
  equal(served, 2 * processors, "to every processor by shorthand");
  asm volatile("cli");
  APIC(0x300) = 0xc4094;
  for (u32 i = 1; i < processors; i++) wait_for(i);
}

void test_many(void) {
  plain = exact = pair[0] = pair[1] = 0;
  everybody(adds);
  equal(plain, processors * TIMES, "additions under a lock");
  equal(exact, processors * TIMES, "locked increments");
  equal(pair[0], processors * TIMES * 2, "comparisons and exchanges");
  equal(pair[1], processors * TIMES, "exchanges and additions");
  reader();
  fences();
  shootdowns();
  patches();
  wakes();
  for (int i = 32; i < 256; i++) handlers[i] = 0;
}
