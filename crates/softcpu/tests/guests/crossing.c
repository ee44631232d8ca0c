/* Code that one processor writes and others run at the same time, for a while: with nothing between, with serialising instructions, with a signal
 * to all, beside data that everybody writes, and moved away under those who run it. */
#include "guest.h"

#define AT 0x2c0000000000ull
#define ALIAS 0x2d0000000000ull
#define TURNS 96

typedef u64 (*function)(void);

static volatile u32 saw[4], stop, wrong, gate_open;
static volatile u32 reached[4], written, synced[4];
static u8 *page;

/* movl $n, %eax; ret; nop; nop: one store, as wide as a word. */
static u64 returns(u32 n) { return 0x9090c300000000b8ull | (u64)n << 8; }

static void write_one(volatile u64 *at, u64 value) { asm volatile("movq %1, (%0)" ::"r"(at), "r"(value) : "memory"); }

/* What another round's pages were is forgotten first. */
static int arrive(void) {
  set_cr3(cr3());
  return self();
}

static void serialise(void) {
  u32 r[4];
  cpuid(0, 0, r);
}

/* Calls it until told otherwise; what it gives never goes back. */
static void calls(void *how) {
  int n = arrive();
  function f = (function)AT;
  u32 last = 0;
  asm volatile("sti");
  while (!stop) {
    if (how) serialise();
    /* What was there when this processor last answered a signal. */
    u32 least = synced[n], now = f();
    if (now < last || now < least || now > TURNS) wrong++;
    last = now;
    saw[n] = now;
  }
  asm volatile("cli");
}

static bool all_saw(u32 value) {
  u64 begin = rdtsc();
  for (;;) {
    bool all = true;
    for (u32 i = 1; i < processors; i++) all &= saw[i] >= value;
    if (all) return true;
    if (rdtsc() - begin > 60000000000) return false;
    pause();
  }
}

static void begin(void (*f)(void *), void *with) {
  stop = wrong = 0;
  for (int i = 0; i < 4; i++) saw[i] = reached[i] = synced[i] = 0;
  for (u32 i = 1; i < processors; i++) run_on(i, f, with);
}

static void end(const char *what) {
  stop = 1;
  for (u32 i = 1; i < processors; i++) wait_for(i);
  equal(wrong, 0, what);
}

/* A whole word at once: everybody sees the old one or the new one, and the new one before long. */
static void at_once(bool serialised) {
  volatile u64 *alias = (u64 *)ALIAS;
  write_one(alias, returns(0));
  begin(calls, (void *)(u64)serialised);
  for (u32 n = 1; n <= TURNS; n++) {
    write_one(alias, returns(n));
    if (n % 4 == 0) check(all_saw(n), "new code is never seen");
    equal(((function)AT)(), n, "one's own new code");
  }
  end("code that was never there");
}

static void on_sync(struct frame *f) {
  (void)f;
  serialise();
  synced[self()] = written;
  asm volatile("lock incl %0" : "+m"(gate_open)::"memory", "cc");
  eoi();
}

/* After a signal that all have answered nobody runs the old code. */
static void signalled(void) {
  volatile u64 *alias = (u64 *)ALIAS;
  handlers[0xa1] = on_sync;
  write_one(alias, returns(0));
  begin(calls, 0);
  for (u32 n = 1; n <= TURNS / 4; n++) {
    write_one(alias, returns(n));
    written = n;
    gate_open = 0;
    APIC(0x300) = 0xc40a1;
    while (gate_open < processors - 1) pause();
  }
  end("old code after a signal, or what was never there");
  handlers[0xa1] = 0;
}

/* By turns, as the manual asks for: the writer says that code of another length is there, the others serialise and run it. */
static void runs_by_turns(void *_) {
  (void)_;
  int n = arrive();
  for (u32 turn = 1; turn <= TURNS; turn++) {
    while (gate_open < turn) pause();
    serialise();
    u32 got = ((function)AT)();
    if (got != turn) wrong++;
    reached[n] = turn;
  }
}

static void by_turns(void) {
  volatile u8 *alias = (u8 *)ALIAS;
  gate_open = 0;
  begin(runs_by_turns, 0);
  for (u32 turn = 1; turn <= TURNS; turn++) {
    /* Some adds of one and of two bytes in front, so that every instruction begins elsewhere each time. */
    u32 at = 0, steps = turn % 7;
    alias[at++] = 0x31;
    alias[at++] = 0xc0; /* xorl %eax, %eax */
    for (u32 i = 0; i < steps; i++) {
      alias[at++] = 0xff;
      alias[at++] = 0xc0; /* incl %eax */
      if (turn & 8) alias[at++] = 0x90;
    }
    alias[at++] = 0x05; /* addl */
    for (int i = 0; i < 4; i++) alias[at++] = (turn - steps) >> 8 * i;
    alias[at++] = 0xc3;
    asm volatile("" ::: "memory");
    gate_open = turn;
    for (u32 i = 1; i < processors; i++)
      while (reached[i] < turn) pause();
  }
  end("not the code that was told of");
}

/* Code and data in one page, even in one line: everybody counts beside the code that everybody runs. */
static void counts_beside(void *_) {
  (void)_;
  int n = arrive();
  function f = (function)AT;
  volatile u32 *own = (u32 *)(AT + 16 + 4 * n), *all = (u32 *)(AT + 32);
  for (u32 i = 0; i < TURNS; i++) {
    if (f() != 77) wrong++;
    *own = *own + 1;
    asm volatile("lock incl %0" : "+m"(*all)::"memory", "cc");
  }
}

static void beside(void) {
  for (int i = 0; i < 64; i += 8) write_one((u64 *)(ALIAS + i), 0);
  write_one((u64 *)ALIAS, returns(77));
  begin(counts_beside, 0);
  counts_beside(0);
  end("code beside data");
  u32 sum = 0;
  for (u32 i = 0; i < processors; i++) sum += *(volatile u32 *)(ALIAS + 16 + 4 * i);
  equal(sum, TURNS * processors, "own counts");
  equal(*(volatile u32 *)(ALIAS + 32), TURNS * processors, "a common count");
}

/* The page goes away under those who run it: they come back by a fault, with the address, when it is there again. */
static volatile u32 faults;

static void on_fault(struct frame *f) {
  if (cr2() - AT >= 0x1000 || !(f->error & 0x10) || f->error & 4) wrong++;
  asm volatile("lock incl %0" : "+m"(faults)::"memory", "cc");
  /* Again. */
  pause();
}

static void on_flush(struct frame *f) {
  (void)f;
  invlpg((void *)AT);
  asm volatile("lock incl %0" : "+m"(gate_open)::"memory", "cc");
  eoi();
}

static void shoot(void) {
  invlpg((void *)AT);
  gate_open = 0;
  APIC(0x300) = 0xc40a2;
  while (gate_open < processors - 1) pause();
}

static void away(void) {
  u8 *other = fresh_page();
  handlers[14] = on_fault;
  handlers[0xa2] = on_flush;
  faults = 0;
  write_one((u64 *)ALIAS, returns(1));
  begin(calls, 0);
  for (u32 n = 2; n <= TURNS / 8; n++) {
    volatile u8 *next = n & 1 ? page : other;
    write_one((u64 *)next, returns(n));
    *entry_of(AT) = 0;
    shoot();
    u32 seen_faults = faults;
    u64 since = rdtsc();
    while (faults == seen_faults && rdtsc() - since < 1000000000) pause();
    *entry_of(AT) = (u64)next | P | W;
    shoot();
    check(all_saw(n), "code in another page");
  }
  end("code of a page that was gone");
  check(faults > 0, "nobody ran into the gap");
  map(AT, (u64)page, P | W);
  handlers[14] = handlers[0xa2] = 0;
}

void tests(void) {
  if (processors < 2) return;
  for (int round = 0; round < 2; round++) {
    forget_pages();
    page = fresh_page();
    map(AT, (u64)page, P | W);
    map(ALIAS, (u64)page, P | W);
    say("at once\n");
    at_once(false);
    at_once(true);
    say("signalled\n");
    signalled();
    say("by turns\n");
    by_turns();
    say("beside\n");
    beside();
    say("away\n");
    away();
  }
}
